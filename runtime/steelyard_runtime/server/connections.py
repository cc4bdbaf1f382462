"""The connections of one port: how many there are, how long each may take, and who gives way.

A client that sends or reads slowly holds a connection and nothing else, and only for a bounded
time. When the port is full the oldest connection without a request in hand gives way to a new
one, so that idle ones never keep others out; where all are at work the last places are kept for
probes.
"""

import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

log = logging.getLogger(__name__)

# Files that are no connections: the engine's socket, logs, the loop's own.
OTHER_FILES = 256
MOST_FILES = 65_536


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may take, and how many there may be."""

    at_most: int = 4096
    for_probes: int = 64  # beyond `at_most`
    head_bytes: int = 32 * 1024  # request line and headers
    head_seconds: float = 10.0  # from their first byte to their last
    first_seconds: float = 30.0  # from the connection to the first byte
    keep_alive_seconds: float = 75.0  # longer than clients and our router keep idle connections
    body_seconds: float = 30.0  # and a second more for each `body_bytes_a_second`
    body_bytes_a_second: int = 64 * 1024
    refused_body_seconds: float = 5.0  # of a request that is answered already
    reader_seconds: float = 30.0  # that a reader may leave a full buffer untouched
    gives_way_seconds: float = 5.0  # a body may be this old before its connection gives way
    pipelined: int = 16  # requests behind the one that is answered
    refused_seconds: float = 2.0  # for a client to read why, while it still sends
    sweep_seconds: float = 1.0


def raise_file_limit() -> None:
    """Let this process open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def within_files(limits: ConnectionLimits, share: float, files: int) -> ConnectionLimits:
    """Return `limits` for a port that gets `share` of the `files` that this process may open."""
    places = int((files - min(OTHER_FILES, files // 4)) * share)
    for_probes = min(limits.for_probes, places // 8)
    return replace(limits, at_most=min(limits.at_most, places - for_probes), for_probes=for_probes)


def open_files_limit() -> int:
    """Return how many files this process may open now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


class Connection(Protocol):
    """A connection, as its port sees it."""

    def overdue(self, now: float) -> str | None:
        """Return what has taken too long, and end the connection if anything has."""
        ...

    def give_way(self) -> None:
        """End the connection for another one."""
        ...


class Connections:
    """All connections of one port, by what they wait for; each kind oldest first."""

    def __init__(
        self, limits: ConnectionLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.clock = clock
        self._fresh: dict[Connection, float] = {}
        self._idle: dict[Connection, float] = {}
        self._sending: dict[Connection, float] = {}
        self._answered: dict[Connection, float] = {}
        self._kinds = (self._fresh, self._idle, self._sending, self._answered)
        self._ended: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many there are."""
        return sum(map(len, self._kinds))

    def open(self, connection: Connection) -> bool:
        """Add one; False where there is room for a probe alone.

        A connection that was ended at once is not added.
        """
        limits = self.limits
        while len(self) >= limits.at_most and self._make_room():
            pass
        has_room = len(self) < limits.at_most
        if not has_room and len(self) >= limits.at_most + limits.for_probes:
            self._ended["full"] += 1
            connection.give_way()
            return False
        self._fresh[connection] = self.clock()
        return has_room

    def sending(self, connection: Connection) -> None:
        """Its request has begun: the head is there, the body is not yet."""
        self._move(connection, self._sending)

    def answered(self, connection: Connection) -> None:
        """Its request is whole."""
        self._move(connection, self._answered)

    def idle(self, connection: Connection) -> None:
        """It was answered, and has nothing more to ask now."""
        self._move(connection, self._idle)

    def close(self, connection: Connection) -> None:
        """Forget one."""
        for kind in self._kinds:
            kind.pop(connection, None)

    def sweep(self) -> None:
        """End what has taken too long; one line in the log says how many."""
        now = self.clock()
        for kind in self._kinds:
            for connection in list(kind):
                reason = connection.overdue(now)
                if reason is not None:
                    self._ended[reason] += 1
        if self._ended:
            fields = {"ended": dict(self._ended), "open": len(self)}
            log.warning("connections were ended", extra={"fields": fields})
            self._ended.clear()

    def _move(self, connection: Connection, to: dict[Connection, float]) -> None:
        self.close(connection)
        to[connection] = self.clock()

    def _make_room(self) -> bool:
        """End the oldest connection that has no request in hand; whether there was one."""
        for kind, least_age in (
            (self._fresh, 0.0),
            (self._idle, 0.0),
            (self._sending, self.limits.gives_way_seconds),
        ):
            oldest = next(iter(kind), None)
            if oldest is not None and self.clock() - kind[oldest] >= least_age:
                self._ended["gave_way"] += 1
                self.close(oldest)
                oldest.give_way()
                return True
        return False

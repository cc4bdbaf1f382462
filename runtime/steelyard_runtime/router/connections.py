"""How many clients may be connected, and how long each may take over what it does.

Where the last place is taken, the connections that ask nothing give theirs up: first those of the
address that has most of them, which have waited for longest; then those whose bodies do not come.
So a flood of connections leaves room for health checks and for other clients. Nothing here knows
HTTP.
"""

import asyncio
import resource
from collections import Counter
from typing import Protocol

# A connection of a client may need one to a worker; the rest is for probes, files and the log.
_RESERVED_DESCRIPTORS = 128
_MOST_DESCRIPTORS = 65536
_LATE_SECONDS = 0.5  # a body that is on its way for longer gives its place up, if no other does
_EVICTED_SHARE = 16  # this share of idle connections goes at once: a search for each is too dear

# A client that has so much to read holds its stream's worker back (`client_stream.py`).
CONGESTED_BYTES = 256 * 1024


class ClientConnection(Protocol):
    """What is known of one connection."""

    peer: str
    waits_since_seconds: float | None  # for a request; None: one is being answered
    body_since_seconds: float | None  # for the rest of a body
    head_since_seconds: float | None  # a request's first byte came, its headers are not complete
    served: bool  # it has had an answer
    unread_bytes: int  # at the last look: written, and not taken by the client
    unread_since_seconds: float

    def unread(self) -> int:
        """Return how many bytes wait for the client to read."""
        ...

    def refuse_slow_head(self) -> None:
        """Answer 408 and close."""
        ...

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        ...


class Connections:
    """All connections of clients."""

    def __init__(self, most: int, *, head_seconds: float, reader_seconds: float) -> None:
        """Take the limits.

        Args:
            most: connections at once.
            head_seconds: from the first byte of a request to the end of its headers.
            reader_seconds: how long a client may read nothing of what is ready for it.
        """
        self._most = most
        self._head_seconds = head_seconds
        self._reader_seconds = reader_seconds
        self._open: dict[ClientConnection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: ClientConnection) -> None:
        """Take a new connection; another one may have to go for it."""
        self._open[connection] = None
        if len(self._open) > self._most:
            self._make_room(connection)

    def remove(self, connection: ClientConnection) -> None:
        """Forget a connection that is closed."""
        self._open.pop(connection, None)

    async def run(self) -> None:
        """Look at all connections a few times in each limit until cancelled."""
        clock = asyncio.get_running_loop().time
        pause = min(1.0, self._head_seconds / 4, self._reader_seconds / 4)
        while True:
            await asyncio.sleep(pause)
            self._sweep(clock())

    def _sweep(self, now_seconds: float) -> None:
        for one in list(self._open):
            since = one.head_since_seconds
            if since is not None and now_seconds - since >= self._head_seconds:
                one.refuse_slow_head()
            elif self._has_stopped_reading(one, now_seconds):
                one.abort()

    def _has_stopped_reading(self, one: ClientConnection, now_seconds: float) -> bool:
        unread = one.unread()
        # Below the mark at which a stream's worker is held back, growth says nothing of the client.
        grows = unread > one.unread_bytes and unread <= CONGESTED_BYTES
        if not unread or unread < one.unread_bytes or grows:
            one.unread_since_seconds = now_seconds
        one.unread_bytes = unread
        return bool(unread) and now_seconds - one.unread_since_seconds >= self._reader_seconds

    def _make_room(self, new: ClientConnection) -> None:
        waiting = [
            (since, one)
            for one in self._open
            if one is not new
            and not one.unread()
            and (since := one.waits_since_seconds) is not None
        ]
        if not waiting:
            late_seconds = asyncio.get_running_loop().time() - _LATE_SECONDS
            waiting = [
                (since, one)
                for one in self._open
                if (since := one.body_since_seconds) is not None and since < late_seconds
            ]
        if not waiting:
            waiting = [(0.0, new)]
        of_peer = Counter(one.peer for _, one in waiting)
        waiting.sort(key=lambda pair: (-of_peer[pair[1].peer], pair[1].served, pair[0]))
        for _, one in waiting[: 1 + len(waiting) // _EVICTED_SHARE]:
            one.abort()


def most_connections() -> int:
    """Raise the limit of descriptors as far as it may be; return how many clients fit into it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    available = _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    return max(16, (min(available, _MOST_DESCRIPTORS) - _RESERVED_DESCRIPTORS) // 2)

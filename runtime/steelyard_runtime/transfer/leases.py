"""Which exported blocks are still held for a reader, and until when.

A pure table: no I/O, no threads; the clock is a monotonic one that the caller gives. A lease ends
once: when its reader is done, gives up, or falls silent for longer than the lease. While a read
over TCP is under way (`pin`) the end waits for `unpin`; the reader's connection has a deadline.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# How many ended leases are remembered, to tell a late notification from a wrong one.
REMEMBERED = 1024


@dataclass(slots=True, eq=False)
class Lease:
    """Blocks that a prefill worker holds for one decode worker."""

    request_id: str
    block_ids: tuple[int, ...]
    num_tokens: int
    expires_at: float
    lease_id: str = field(default_factory=lambda: secrets.token_hex(8))
    checksums: list[int] = field(default_factory=list)  # by position, made after the export
    opened: bool = False  # a reader may be reading through a one-sided transport
    pins: int = 0
    ending: str | None = None  # why it ends as soon as the last pin goes


class LeaseTable:
    """The leases of one worker."""

    def __init__(self, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._expired: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._leases)

    def add(self, request_id: str, block_ids: Sequence[int], num_tokens: int) -> Lease:
        """Start a lease.

        Raises:
            ValueError: the request already has one.
        """
        if request_id in self._leases:
            raise ValueError(f"request '{request_id}' already has a lease")
        lease = Lease(
            request_id=request_id,
            block_ids=tuple(block_ids),
            num_tokens=num_tokens,
            expires_at=self._clock() + self._lease_seconds,
        )
        self._leases[request_id] = lease
        return lease

    def get(self, request_id: str) -> Lease | None:
        """Return a lease that has not run out; a lease about to end has."""
        lease = self._leases.get(request_id)
        if lease is None or lease.ending is not None:
            return None
        if lease.pins == 0 and lease.expires_at <= self._clock():
            return None
        return lease

    def renew(self, request_id: str) -> bool:
        """Push the end of a lease back; returns whether there is such a lease."""
        lease = self.get(request_id)
        if lease is None:
            return False
        lease.expires_at = self._clock() + self._lease_seconds
        return True

    def remaining_seconds(self, lease: Lease) -> float:
        """How long the lease lasts without a heartbeat."""
        return max(0.0, lease.expires_at - self._clock())

    def pin(self, lease: Lease) -> None:
        """Hold the lease while its bytes are sent."""
        lease.pins += 1

    def unpin(self, lease: Lease) -> str | None:
        """Let go, with a fresh lease time; returns why the lease ended just now, if it did."""
        lease.pins -= 1
        if lease.ending is None:
            lease.expires_at = self._clock() + self._lease_seconds
            return None
        return self.end(lease.request_id, lease.ending)

    def end(self, request_id: str, reason: str) -> str | None:
        """End a lease, now or when its last pin goes; returns the reason if it ended now."""
        lease = self._leases.get(request_id)
        if lease is None:
            return None
        lease.ending = reason
        if lease.pins:
            return None
        del self._leases[request_id]
        if reason == "expired":
            self._expired[request_id] = None
            while len(self._expired) > REMEMBERED:
                self._expired.popitem(last=False)
        return reason

    def expire(self) -> list[str]:
        """End the leases whose time is over; returns their request ids."""
        now = self._clock()
        over = [
            lease.request_id
            for lease in self._leases.values()
            if lease.expires_at <= now and not lease.pins
        ]
        return [request_id for request_id in over if self.end(request_id, "expired")]

    def was_expired(self, request_id: str) -> bool:
        """Whether a lease of this request ran out lately."""
        return request_id in self._expired

    def request_ids(self) -> list[str]:
        """The requests that have a lease."""
        return list(self._leases)

    def any_opened(self) -> bool:
        """Whether a reader may be reading through a one-sided transport now."""
        return any(lease.opened for lease in self._leases.values())

"""What a transport is: a way to bring opened blocks of a peer into our pool.

The side channel, the leases, the checksums and the deadlines are the same for all transports;
`tcp.py` and `nixl.py` differ in how bytes move and in when a failed read can no longer land.
"""

from dataclasses import dataclass
from typing import Protocol

from steelyard_runtime.errors import TransferError
from steelyard_runtime.transfer.channel import Channel
from steelyard_runtime.transfer.messages import Greeting, NixlEndpoint, Opened, Reply


class TransportBrokenError(TransferError):
    """The transport itself failed on a peer; nothing lands any more, another one may do better."""


@dataclass(frozen=True, slots=True)
class Link:
    """An authenticated connection to a peer and what the peer said about itself."""

    channel: Channel[Reply]
    peer: Greeting


@dataclass(frozen=True, slots=True)
class Wanted:
    """Blocks [first_block, first_block + len(block_ids)) of a lease, for these of our blocks."""

    request_id: str
    first_block: int
    block_ids: tuple[int, ...]


class Landing(Protocol):
    """One read. `finish` may be cancelled at any time; `settle` is awaited after a failure."""

    async def finish(self) -> None:
        """Bring all bytes in.

        Raises:
            TransportBrokenError: they will not come this way.
            TransferError: they will not come.
            FrameError: the connection is unusable.
            OSError: the connection is gone.
        """
        ...

    async def settle(self) -> None:
        """Return once nothing can land any more."""
        ...


class Transport(Protocol):
    """One way to move blocks; both ends of it."""

    name: str

    def start(self) -> None:
        """Get ready; called on the thread that starts the worker.

        Raises:
            ConfigError: it cannot work here.
        """
        ...

    def endpoint(self) -> NixlEndpoint | None:
        """What a peer must know to read from here, for our greeting."""
        ...

    def reaches(self, peer: Greeting) -> bool:
        """Whether blocks of this peer can be read; the first transport that can is taken."""
        ...

    def read(self, link: Link, wanted: Wanted, opened: Opened) -> Landing:
        """Prepare a read of opened blocks; nothing moves before `finish`."""
        ...

    def exporting(self, opened: bool) -> None:
        """Say whether any of our leases may be read through this transport now."""
        ...

    def stats(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Counters and observations of this transport since the start and the last call."""
        ...

    def close(self) -> None:
        """Stop; nothing lands after this."""
        ...

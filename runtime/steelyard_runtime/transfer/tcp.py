"""The plain TCP transport: block bytes follow a frame on the side channel's own connection.

Bytes go from the pool's memory to the socket and from the socket into the pool's memory, without
a copy in between. A read that is given up loses its connection, so nothing lands afterwards.
"""

import asyncio

from steelyard_runtime.errors import TransferError
from steelyard_runtime.transfer.faults import TransferFaults
from steelyard_runtime.transfer.interface import BlockMemory
from steelyard_runtime.transfer.messages import (
    Failure,
    Greeting,
    NixlEndpoint,
    Opened,
    Read,
    Reading,
)
from steelyard_runtime.transfer.transport import Landing, Link, Wanted


class TcpTransport:
    """Reads blocks over the side channel."""

    name = "tcp"

    def __init__(self, memory: BlockMemory, faults: TransferFaults | None = None) -> None:
        self._memory = memory
        self._faults = faults

    def start(self) -> None:
        """Nothing to load."""

    def endpoint(self) -> NixlEndpoint | None:
        """A peer needs to know nothing more than where the side channel is."""
        return None

    def reaches(self, peer: Greeting) -> bool:
        """A peer whose side channel answers can be read."""
        return self.name in peer.transports

    def read(self, link: Link, wanted: Wanted, opened: Opened) -> Landing:
        """Prepare a read of opened blocks."""
        return _TcpLanding(self._memory, self._faults, link, wanted, opened)

    def exporting(self, opened: bool) -> None:
        """The side channel serves TCP reads; nothing to drive here."""

    def stats(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Nothing beyond what all transports count."""
        return {}, {}

    def close(self) -> None:
        """Nothing to stop."""


class _TcpLanding:
    def __init__(
        self,
        memory: BlockMemory,
        faults: TransferFaults | None,
        link: Link,
        wanted: Wanted,
        opened: Opened,
    ) -> None:
        self._memory = memory
        self._faults = faults
        self._link = link
        self._wanted = wanted
        self._opened = opened

    async def finish(self) -> None:
        wanted, channel = self._wanted, self._link.channel
        count = len(wanted.block_ids)
        read = Read(wanted.request_id, self._opened.lease_id, wanted.first_block, count)
        await channel.send(read)
        reply = await channel.receive()
        if isinstance(reply, Failure):
            raise TransferError("unknown_lease", reply.message)
        expected = count * self._memory.block_bytes
        if not isinstance(reply, Reading) or reply.num_bytes != expected:
            raise TransferError(
                "transfer", f"the peer does not send the {expected} bytes asked for"
            )
        for position, block_id in enumerate(wanted.block_ids):
            if self._faults is not None:
                await self._faults.before_block(position)
            await channel.receive_into(self._memory.view(block_id))
            # A fast peer never makes us wait; let heartbeats and other pulls run between blocks.
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """The importer has closed the connection: nothing can land."""

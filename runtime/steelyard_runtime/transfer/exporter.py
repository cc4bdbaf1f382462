"""The prefill side: leases, and the side channel's listening socket that serves them.

Runs on the transfer thread. Every read from a socket has a deadline, the number of connections is
bounded, and a connection that sends what it should not is closed and counted; nobody else notices.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from steelyard_runtime.transfer.channel import Channel, accept
from steelyard_runtime.transfer.checksums import block_checksum
from steelyard_runtime.transfer.codec import FrameError
from steelyard_runtime.transfer.faults import TransferFaults
from steelyard_runtime.transfer.interface import BlockMemory, LeaseEnded
from steelyard_runtime.transfer.leases import Lease, LeaseTable
from steelyard_runtime.transfer.messages import (
    PROTOCOL,
    Abort,
    Done,
    Ended,
    Failure,
    Greeting,
    Hello,
    Open,
    Opened,
    Read,
    Reading,
    Renew,
    Reply,
    Request,
    Welcome,
)
from steelyard_runtime.transfer.stats import TransferStats

MAX_CONNECTIONS = 256
# From accepting a connection to a verified Hello, and from a frame's first byte to its last.
HANDSHAKE_SECONDS = 5.0
ACCEPT_RETRY_SECONDS = 0.1
# A connection that asks for nothing is closed after this; decode workers connect again.
IDLE_SECONDS = 300.0
# Checksums yield to other work after this many bytes (about a millisecond).
CHECKSUM_SLICE_BYTES = 16 * 1024 * 1024

logger = logging.getLogger(__name__)


class Exporter:
    """Serves this worker's leases to its peers."""

    def __init__(
        self,
        *,
        memory: BlockMemory,
        leases: LeaseTable,
        token: str,
        greeting: Callable[[], Greeting],
        read_seconds: float,
        emit: Callable[[LeaseEnded], None],
        opened_changed: Callable[[bool], None],
        stats: TransferStats,
        faults: TransferFaults | None = None,
    ) -> None:
        self._memory = memory
        self._leases = leases
        self._token = token
        self._greeting = greeting
        self._read_seconds = read_seconds
        self._emit = emit
        self._opened_changed = opened_changed
        self._stats = stats
        self._faults = faults
        self._checksums: dict[str, asyncio.Task[None]] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    @property
    def num_connections(self) -> int:
        """Open connections of peers."""
        return len(self._connections)

    # --- leases ---------------------------------------------------------------------------------

    def export(self, request_id: str, block_ids: Sequence[int], num_tokens: int) -> None:
        """Start a lease and its checksums."""
        lease = self._leases.add(request_id, block_ids, num_tokens)
        task = asyncio.get_running_loop().create_task(self._make_checksums(lease))
        self._checksums[request_id] = task

    async def _make_checksums(self, lease: Lease) -> None:
        every = max(1, CHECKSUM_SLICE_BYTES // self._memory.block_bytes)
        for index, block_id in enumerate(lease.block_ids):
            view = self._memory.view(block_id)
            lease.checksums.append(block_checksum(view, lease.request_id, lease.lease_id, index))
            if (index + 1) % every == 0:
                await asyncio.sleep(0)

    async def expire(self, every_seconds: float) -> None:
        """End leases that run out, for as long as the worker lives."""
        while True:
            await asyncio.sleep(every_seconds)
            for request_id in self._leases.expire():
                self._ended(request_id, "expired")

    def end_leases(self) -> None:
        """End all leases; one whose bytes are being sent ends after them."""
        for request_id in self._leases.request_ids():
            if self._leases.end(request_id, "aborted"):
                self._ended(request_id, "aborted")

    def _end(self, request_id: str, reason: str) -> bool:
        """End a lease; returns whether there was one."""
        if self._leases.get(request_id) is None:
            if self._leases.was_expired(request_id):
                self._stats.count("vllm:nixl_num_notifications_after_expiry_total")
            return False
        if self._leases.end(request_id, reason):
            self._ended(request_id, reason)
        return True

    def _ended(self, request_id: str, reason: str) -> None:
        task = self._checksums.pop(request_id, None)
        if task is not None:
            task.cancel()
        self._stats.lease_ended(reason)
        self._emit(LeaseEnded(request_id, reason))
        self._opened_changed(self._leases.any_opened())

    # --- connections ----------------------------------------------------------------------------

    def listen(self, listener: socket.socket) -> None:
        """Accept connections until `close`."""
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # out of descriptors: try again when some may be free
            logger.warning("the KV side channel cannot accept: %s", error)
            loop.remove_reader(self._listener)
            loop.call_later(ACCEPT_RETRY_SECONDS, self._listen_again)
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            self._stats.rejected("connections")
            sock.close()
            return
        task = loop.create_task(self._converse(sock))
        self._connections.add(task)

        def closed(task: asyncio.Task[None]) -> None:
            self._connections.discard(task)
            sock.close()

        task.add_done_callback(closed)

    def _listen_again(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """Stop listening, drop the connections and end the leases."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        tasks = [*self._connections, *self._checksums.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.end_leases()

    async def _converse(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                channel = await accept(sock, self._token)
                hello = await channel.receive()
                if not isinstance(hello, Hello) or hello.greeting.protocol != PROTOCOL:
                    raise FrameError("protocol", f"expected a Hello of protocol {PROTOCOL}")
                await channel.send(Welcome(self._greeting()))
            while await self._serve_one(channel):
                pass
        except FrameError as error:
            self._stats.rejected(error.reason)
            level = logging.INFO if error.reason == "closed" else logging.WARNING
            logger.log(level, "closed a connection of the KV side channel: %s", error)
        except TimeoutError:
            self._stats.rejected("deadline")
        except OSError:
            pass  # the peer is gone

    async def _serve_one(self, channel: Channel[Request]) -> bool:
        """Answer one request; returns False when the peer left or was silent for long."""
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                header = await channel.header()
        except TimeoutError:
            return False
        except FrameError as error:
            if error.reason == "closed":
                return False
            raise
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            request = await channel.finish(header)
        # An export that was made before the peer asked may still wait for its turn on this loop.
        await asyncio.sleep(0)
        if isinstance(request, Read):
            await self._read(channel, request)
            return True
        reply = await self._answer(request)
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            await channel.send(reply)
        return True

    async def _answer(self, request: Request) -> Reply:
        match request:
            case Open():
                return await self._open(request)
            case Renew(request_ids=request_ids):
                return Ended([each for each in request_ids if not self._leases.renew(each)])
            case Done(request_id=request_id):
                return Ended([] if self._end(request_id, "done") else [request_id])
            case Abort(request_id=request_id):
                return Ended([] if self._end(request_id, "aborted") else [request_id])
            case _:
                return Failure("protocol", "a Hello is only the first request")

    async def _open(self, request: Open) -> Reply:
        lease = self._leases.get(request.request_id)
        if lease is None:
            return _no_lease(request.request_id)
        last = request.first_block + request.count
        if last > len(lease.block_ids):
            return Failure("range", f"the lease has {len(lease.block_ids)} blocks, not {last}")
        self._leases.renew(request.request_id)
        await asyncio.wait([self._checksums[request.request_id]])
        if self._leases.get(request.request_id) is not lease:
            return _no_lease(request.request_id)
        lease.opened = True
        self._opened_changed(True)
        return Opened(
            lease_id=lease.lease_id,
            num_tokens=lease.num_tokens,
            block_ids=list(lease.block_ids[request.first_block : last]),
            checksums=lease.checksums[request.first_block : last],
            remaining_seconds=self._leases.remaining_seconds(lease),
        )

    async def _read(self, channel: Channel[Request], request: Read) -> None:
        lease = self._leases.get(request.request_id)
        last = request.first_block + request.count
        async with asyncio.timeout(self._read_seconds):
            if lease is None or lease.lease_id != request.lease_id:
                await channel.send(_no_lease(request.request_id))
                return
            if last > len(lease.block_ids):
                await channel.send(Failure("range", f"the lease has no block {last - 1}"))
                return
            self._leases.pin(lease)
            try:
                await channel.send(Reading(request.count * self._memory.block_bytes))
                for position, block_id in enumerate(lease.block_ids[request.first_block : last]):
                    if self._faults is not None:
                        await self._faults.before_sending(position)
                    await channel.send_view(self._memory.view(block_id))
                    await asyncio.sleep(0)
            finally:
                ended = self._leases.unpin(lease)
                if ended is not None:
                    self._ended(lease.request_id, ended)


def _no_lease(request_id: str) -> Failure:
    return Failure("unknown_lease", f"no lease for request '{request_id[:64]}'")

"""The decode side: pulls. Each is a task of its own on the transfer thread.

A pull ends with `PullDone`, or with `PullFailed` and, when nothing can land any more, exactly one
`PullSettled`. The decode worker recomputes the prompt after the former and may reuse the blocks
after the latter.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from steelyard_runtime.errors import TransferError
from steelyard_runtime.ipc.messages import RemotePrefill
from steelyard_runtime.transfer.checksums import block_checksum
from steelyard_runtime.transfer.codec import FrameError
from steelyard_runtime.transfer.faults import TransferFaults
from steelyard_runtime.transfer.interface import (
    BlockMemory,
    PullDone,
    PullFailed,
    PullSettled,
    TransferEvent,
)
from steelyard_runtime.transfer.messages import Abort, Done, Failure, Greeting, Open, Opened
from steelyard_runtime.transfer.peers import Peer, Peers
from steelyard_runtime.transfer.stats import TransferStats
from steelyard_runtime.transfer.transport import (
    Landing,
    Link,
    Transport,
    TransportBrokenError,
    Wanted,
)

# Failures after which the peer holds no lease of ours, or must not hear from us.
SILENT_REASONS = frozenset({"peer_not_allowed", "connect", "handshake", "unknown_lease"})
# A transport that failed on a peer is not tried again for so long; TCP takes over.
AVOID_BROKEN_SECONDS = 60.0
# Verification yields to other work after this many bytes (about a millisecond).
VERIFY_SLICE_BYTES = 16 * 1024 * 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pull:
    """What the step thread asked for."""

    request_id: str
    remote: RemotePrefill
    first_block: int
    block_ids: tuple[int, ...]
    num_tokens: int
    started_at: float  # time.monotonic(), which is the event loop's clock


class Importer:
    """Pulls blocks of peers into our pool."""

    def __init__(
        self,
        *,
        memory: BlockMemory,
        fingerprint: str,
        deadline_seconds: float,
        peers: Peers,
        transports: Mapping[str, Transport],
        emit: Callable[[TransferEvent], None],
        stats: TransferStats,
        faults: TransferFaults | None,
    ) -> None:
        self._memory = memory
        self._fingerprint = fingerprint
        self._deadline_seconds = deadline_seconds
        self._peers = peers
        self._transports = transports
        self._emit = emit
        self._stats = stats
        self._faults = faults
        self._pulls: dict[str, asyncio.Task[None]] = {}
        self._attempts: dict[str, asyncio.Task[None]] = {}
        # When a transport failed on an engine: (transport, engine id) to monotonic time.
        self._broken: dict[tuple[str, str], float] = {}
        self._waiting: set[tuple[Peer, str]] = set()
        self._landings: dict[str, Landing] = {}
        self._notices: set[asyncio.Task[bool]] = set()

    @property
    def num_pulls(self) -> int:
        """Pulls that are under way or not settled."""
        return len(self._pulls)

    def hold(self, remote: RemotePrefill) -> None:
        """Keep a lease alive until it is pulled or released."""
        peer = self._peers.peer(remote.host, remote.port)
        if (peer, remote.request_id) not in self._waiting:
            self._waiting.add((peer, remote.request_id))
            self._peers.hold(peer, remote.request_id)

    def pull(self, pull: Pull) -> None:
        """Start a pull."""
        # The attempt may be cancelled at any time, even before it runs; what follows it may not.
        loop = asyncio.get_running_loop()
        peer = self._peers.peer(pull.remote.host, pull.remote.port)
        self._peers.hold(peer, pull.remote.request_id)
        self._stop_waiting(peer, pull.remote.request_id)
        attempt = loop.create_task(self._attempt(pull, peer))
        task = loop.create_task(self._run(pull, peer, attempt))
        self._attempts[pull.request_id] = attempt
        self._pulls[pull.request_id] = task
        task.add_done_callback(lambda _: self._pulls.pop(pull.request_id, None))

    def cancel(self, request_id: str) -> None:
        """Give up a pull that is still under way."""
        attempt = self._attempts.get(request_id)
        if attempt is not None:
            attempt.cancel()

    def release(self, remote: RemotePrefill) -> None:
        """Tell a peer that its lease is not needed."""
        peer = self._peers.peer(remote.host, remote.port)
        self._stop_waiting(peer, remote.request_id)
        self._notify(peer, Abort(remote.request_id))

    def cancel_all(self) -> None:
        """Give up all pulls that are under way."""
        for request_id in list(self._attempts):
            self.cancel(request_id)

    async def close(self) -> None:
        """Wait for the last pulls to settle; `cancel_all` and the transports' end come first."""
        await asyncio.gather(*self._pulls.values(), return_exceptions=True)
        for notice in self._notices:
            notice.cancel()
        await asyncio.gather(*self._notices, return_exceptions=True)

    def _stop_waiting(self, peer: Peer, request_id: str) -> None:
        if (peer, request_id) in self._waiting:
            self._waiting.discard((peer, request_id))
            self._peers.unhold(peer, request_id)

    async def _run(self, pull: Pull, peer: Peer, attempt: asyncio.Task[None]) -> None:
        try:
            await attempt
        except TimeoutError:
            reason, message = "deadline", f"not there within {self._deadline_seconds:g} s"
        except TransferError as error:
            reason, message = error.reason, str(error)
        except (FrameError, OSError) as error:
            reason, message = "transfer", f"the transfer broke: {error}"
        except asyncio.CancelledError:
            reason, message = "cancelled", "the request was cancelled"
        except Exception as error:  # a bug of ours costs one pull, not the worker
            logger.exception("a pull failed in an unforeseen way")
            reason, message = "transfer", f"the transfer broke: {error!r}"
        else:
            self._succeeded(pull, peer)
            return
        finally:
            self._attempts.pop(pull.request_id, None)
            self._peers.unhold(peer, pull.remote.request_id)
        await self._failed(pull, peer, reason, message)

    async def _attempt(self, pull: Pull, peer: Peer) -> None:
        if pull.block_ids:
            async with asyncio.timeout_at(pull.started_at + self._deadline_seconds):
                await self._transfer(pull, peer)

    async def _transfer(self, pull: Pull, peer: Peer) -> None:
        remote = pull.remote
        if self._faults is not None:
            await self._faults.before_asking()
        if remote.fingerprint not in (None, self._fingerprint):
            raise TransferError("fingerprint", f"the peer's fingerprint is {remote.fingerprint}")
        if remote.num_tokens not in (None, pull.num_tokens):
            raise TransferError(
                "token_count", f"the peer has {remote.num_tokens} tokens, here {pull.num_tokens}"
            )
        wanted = Wanted(remote.request_id, pull.first_block, pull.block_ids)
        request = Open(remote.request_id, pull.first_block, len(pull.block_ids))
        async with self._peers.opened(peer, request) as (link, reply):
            if link.peer.engine_id != remote.engine_id:
                raise TransferError(
                    "handshake", f"engine {link.peer.engine_id} answers for {remote.engine_id}"
                )
            opened = _checked(reply, pull)
            await self._land(pull, link, wanted, opened)
            await self._verify(pull, opened)

    async def _land(self, pull: Pull, link: Link, wanted: Wanted, opened: Opened) -> None:
        """Read through the best transport, or the next one where that is broken."""
        while True:
            transport = self._choose(link.peer)
            landing = transport.read(link, wanted, opened)
            self._landings[pull.request_id] = landing
            try:
                return await landing.finish()
            except TransportBrokenError as error:
                key = (transport.name, link.peer.engine_id)
                logger.warning("%s does not reach %s: %s", *key, error)
                self._broken[key] = time.monotonic()

    def _choose(self, peer: Greeting) -> Transport:
        now = time.monotonic()
        self._broken = {
            key: at for key, at in self._broken.items() if now - at < AVOID_BROKEN_SECONDS
        }
        for transport in self._transports.values():
            broken = (transport.name, peer.engine_id) in self._broken
            if not broken and transport.reaches(peer):
                return transport
        raise TransferError("handshake", "the peer has no transport in common with this worker")

    async def _verify(self, pull: Pull, opened: Opened) -> None:
        every = max(1, VERIFY_SLICE_BYTES // self._memory.block_bytes)
        for position, block_id in enumerate(pull.block_ids):
            view = self._memory.view(block_id)
            if self._faults is not None:
                self._faults.landed(view)
            index = pull.first_block + position
            checksum = block_checksum(view, pull.remote.request_id, opened.lease_id, index)
            if checksum != opened.checksums[position]:
                raise TransferError("checksum", f"block {index} arrived with other bytes")
            if (position + 1) % every == 0:
                await asyncio.sleep(0)

    def _succeeded(self, pull: Pull, peer: Peer) -> None:
        seconds = asyncio.get_running_loop().time() - pull.started_at
        count = len(pull.block_ids)
        self._landings.pop(pull.request_id, None)
        if count:  # a full local hit moved nothing and says nothing about transfers
            self._stats.pull_done(seconds, count * self._memory.block_bytes)
        self._emit(PullDone(pull.request_id, count, seconds))
        self._notify(peer, Done(pull.remote.request_id))

    async def _failed(self, pull: Pull, peer: Peer, reason: str, message: str) -> None:
        self._stats.pull_failed(reason)
        self._emit(PullFailed(pull.request_id, reason, message))
        if reason not in SILENT_REASONS:
            self._notify(peer, Abort(pull.remote.request_id))
        landing = self._landings.pop(pull.request_id, None)
        if landing is not None:
            await landing.settle()
        self._emit(PullSettled(pull.request_id))

    def _notify(self, peer: Peer, message: Done | Abort) -> None:
        notice = asyncio.get_running_loop().create_task(self._peers.notify(peer, message))
        self._notices.add(notice)
        notice.add_done_callback(self._notices.discard)


def _checked(reply: object, pull: Pull) -> Opened:
    """Return the reply to Open if it is one that this pull can use."""
    if isinstance(reply, Failure):
        reason = "unknown_lease" if reply.code == "unknown_lease" else "transfer"
        raise TransferError(reason, reply.message)
    if not isinstance(reply, Opened):
        raise TransferError("transfer", "the peer answers something else than was asked")
    if reply.num_tokens != pull.num_tokens:
        raise TransferError(
            "token_count", f"the lease has {reply.num_tokens} tokens, here {pull.num_tokens}"
        )
    if not len(reply.checksums) == len(reply.block_ids) == len(pull.block_ids):
        raise TransferError("transfer", "the peer opened another number of blocks than asked for")
    return reply

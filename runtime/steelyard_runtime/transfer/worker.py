"""The `Transfer` of one worker: exporter and importer on one transfer thread.

The thread runs an event loop that sleeps while there is nothing to do. Calls of the step thread
are handed to it; answers come back as events.
"""

import asyncio
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from steelyard_runtime.config import TransferConfig
from steelyard_runtime.errors import ConfigError
from steelyard_runtime.ipc.messages import RemotePrefill
from steelyard_runtime.transfer.channel import listen
from steelyard_runtime.transfer.exporter import Exporter
from steelyard_runtime.transfer.faults import TransferFaults
from steelyard_runtime.transfer.importer import Importer, Pull
from steelyard_runtime.transfer.interface import (
    BlockMemory,
    LeaseEnded,
    PullFailed,
    PullSettled,
    TransferEvent,
)
from steelyard_runtime.transfer.leases import LeaseTable
from steelyard_runtime.transfer.messages import PROTOCOL, Greeting
from steelyard_runtime.transfer.peers import Peers, parse_networks
from steelyard_runtime.transfer.stats import TransferStats
from steelyard_runtime.transfer.transport import Transport

# Leases are looked at this often in their life.
EXPIRY_CHECKS_PER_LEASE = 30
CLOSE_SECONDS = 10.0

logger = logging.getLogger(__name__)


class TransferWorker:
    """Implements `transfer.interface.Transfer`; `registry.make_transfer` puts it together."""

    def __init__(
        self,
        config: TransferConfig,
        *,
        engine_id: str,
        fingerprint: str,
        memory: BlockMemory,
        transports: Sequence[Transport],
        faults: TransferFaults | None = None,
        on_event: Callable[[], None] | None = None,
    ) -> None:
        self.port = config.port
        self._config = config
        self._engine_id = engine_id
        self._fingerprint = fingerprint
        self._memory = memory
        self._transports = {transport.name: transport for transport in transports}
        self._on_event = on_event
        self._events: deque[TransferEvent] = deque()
        self._leased: set[str] = set()
        self._stats = TransferStats()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="kv-transfer", daemon=True)
        self._stopping = asyncio.Event()
        self._closed = False
        self._listener: socket.socket | None = None
        self._leases = LeaseTable(config.lease_seconds, time.monotonic)
        self._exporter = Exporter(
            memory=memory,
            leases=self._leases,
            token=config.token,
            greeting=self._greeting,
            read_seconds=config.deadline_seconds,
            emit=self._emit,
            opened_changed=self._opened_changed,
            stats=self._stats,
            faults=faults,
        )
        self._peers = Peers(
            networks=parse_networks(config.peers),
            token=config.token,
            greeting=self._greeting,
            stats=self._stats,
        )
        self._importer = Importer(
            memory=memory,
            fingerprint=fingerprint,
            deadline_seconds=config.deadline_seconds,
            peers=self._peers,
            transports=self._transports,
            emit=self._emit,
            stats=self._stats,
            faults=faults,
        )

    # --- the step thread's side -----------------------------------------------------------------

    def start(self) -> None:
        """Bind the side channel and start the threads.

        Raises:
            ConfigError: the port is in use, or a transport cannot be loaded.
        """
        if not self._config.enabled:
            # Neither side channel nor transport: NIXL's own listener is on all interfaces.
            self.port = 0
            logger.warning(
                "KV transfer is off: a worker that other machines reach needs a service token for "
                "it (--service-token-file)"
            )
            return
        self._listener = listen(self._config.listen_host, self._config.port)
        self.port = self._listener.getsockname()[1]
        try:
            for transport in list(self._transports.values()):
                self._start_transport(transport)
        except BaseException:
            self._listener.close()
            raise
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def _start_transport(self, transport: Transport) -> None:
        try:
            transport.start()
        except ConfigError as error:
            if self._config.transport != "auto":
                raise
            logger.warning("KV moves without %s: %s", transport.name, error)
            del self._transports[transport.name]

    def export(self, request_id: str, block_ids: Sequence[int], num_tokens: int) -> dict[str, Any]:
        """Put blocks under a lease; return the `kv_transfer_params` of the answer.

        Raises:
            ValueError: the request already has a lease.
        """
        if request_id in self._leased:
            raise ValueError(f"request '{request_id}' already has a lease")
        self._leased.add(request_id)
        blocks = list(block_ids)
        if not self._config.enabled:
            self._emit(LeaseEnded(request_id, "aborted"))
            return {"do_remote_prefill": False, "do_remote_decode": False}
        if not self._post(self._exporter.export, request_id, blocks, num_tokens):
            self._emit(LeaseEnded(request_id, "aborted"))
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [blocks],
            "remote_engine_id": self._engine_id,
            "remote_request_id": request_id,
            "remote_host": self._config.advertise_host,
            "remote_port": self.port,
            "tp_size": 1,
            "dcp_size": 1,
            "pp_size": 1,
            "remote_num_tokens": num_tokens,
            "remote_blocks_expiry_time": None,
            "transfer_mode": "pull",
            "steelyard": {"fingerprint": self._fingerprint},
        }

    def hold(self, remote: RemotePrefill) -> None:
        """Keep the remote lease alive until `pull` or `release`."""
        self._post(self._importer.hold, remote)

    def pull(
        self,
        request_id: str,
        remote: RemotePrefill,
        first_block: int,
        block_ids: Sequence[int],
        num_tokens: int,
    ) -> None:
        """Read the remote blocks from `first_block` on into `block_ids`; events follow."""
        pull = Pull(
            request_id=request_id,
            remote=remote,
            first_block=first_block,
            block_ids=tuple(block_ids),
            num_tokens=num_tokens,
            started_at=time.monotonic(),
        )
        if not self._post(self._importer.pull, pull):
            why = "the worker is stopping" if self._config.enabled else "KV transfer is off here"
            self._emit(PullFailed(request_id, "cancelled", why))
            self._emit(PullSettled(request_id))

    def cancel(self, request_id: str) -> None:
        """Give up a pull."""
        self._post(self._importer.cancel, request_id)

    def release(self, remote: RemotePrefill) -> None:
        """Tell the prefill worker that a lease is not needed."""
        self._post(self._importer.release, remote)

    def end_leases(self) -> None:
        """End what is exported, whoever wants it."""
        self._post(self._exporter.end_leases)

    def events(self) -> list[TransferEvent]:
        """Take the events that came since the last call; never blocks."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def stats(self) -> tuple[dict[str, float], dict[str, float], dict[str, list[float]]]:
        """Gauges, counters and observations, in the form of `EngineStats`."""
        gauges = {
            "steelyard:kv_leases": float(len(self._leases)),
            "steelyard:kv_pulls": float(self._importer.num_pulls),
            "steelyard:kv_connections": float(self._exporter.num_connections),
        }
        counters = dict(self._stats.counters)
        observations = self._stats.take_observations()
        for transport in self._transports.values():
            more_counters, more_observations = transport.stats()
            counters.update(more_counters)
            observations.update(more_observations)
        return gauges, counters, observations

    def close(self) -> None:
        """Stop the threads; leases end and pulls are cancelled."""
        if self._closed:
            return
        self._closed = True
        if self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.error("the KV transfer thread did not stop within %g s", CLOSE_SECONDS)

    # --- the transfer thread --------------------------------------------------------------------

    def _run(self) -> None:
        assert self._loop is not None
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        assert self._listener is not None
        loop = asyncio.get_running_loop()
        every_seconds = self._config.lease_seconds / EXPIRY_CHECKS_PER_LEASE
        self._exporter.listen(self._listener)
        expiry = loop.create_task(self._exporter.expire(every_seconds))
        await self._stopping.wait()
        expiry.cancel()
        await asyncio.gather(expiry, return_exceptions=True)
        self._importer.cancel_all()
        # Off the loop: what a transport still has to tell its reads goes through the loop.
        await asyncio.gather(
            *(asyncio.to_thread(transport.close) for transport in self._transports.values())
        )
        await self._importer.close()
        await self._peers.close()
        await self._exporter.close()
        await loop.shutdown_default_executor()

    def _post(self, call: Callable[..., None], *arguments: Any) -> bool:
        if self._closed or self._loop is None:
            return False
        self._loop.call_soon_threadsafe(call, *arguments)
        return True

    def _emit(self, event: TransferEvent) -> None:
        if isinstance(event, LeaseEnded):
            self._leased.discard(event.request_id)
        self._events.append(event)
        if self._on_event is not None:
            self._on_event()

    def _opened_changed(self, opened: bool) -> None:
        for transport in self._transports.values():
            transport.exporting(opened)

    def _greeting(self) -> Greeting:
        endpoints = [transport.endpoint() for transport in self._transports.values()]
        return Greeting(
            protocol=PROTOCOL,
            engine_id=self._engine_id,
            fingerprint=self._fingerprint,
            block_bytes=self._memory.block_bytes,
            transports=list(self._transports),
            lease_seconds=self._config.lease_seconds,
            nixl=next((endpoint for endpoint in endpoints if endpoint is not None), None),
        )

"""The NIXL transport: one-sided reads of the peer's pool by UCX.

`auto` takes it for peers whose memory can be read without their help: processes of the same
machine (CMA) and machines with RDMA. Elsewhere UCX emulates reads over TCP, which the prefill
process must serve; there a decode worker that dies with reads queued makes UCX abort the prefill
process. So `auto` leaves plain TCP to `tcp.py`; `nixl` does as it is told. See docs/adr/0003.
"""

import asyncio
import os
from collections import deque
from typing import Any

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.transfer import machine, nixl_library
from steelyard_runtime.transfer.faults import TransferFaults
from steelyard_runtime.transfer.interface import BlockMemory
from steelyard_runtime.transfer.messages import Greeting, NixlEndpoint, Opened
from steelyard_runtime.transfer.nixl_library import Agent, State
from steelyard_runtime.transfer.nixl_thread import NixlThread, Read
from steelyard_runtime.transfer.transport import Landing, Link, TransportBrokenError, Wanted

# A read copies while the thread waits; smaller slices let other reads run and a cancel take hold.
SLICE_BYTES = 32 * 1024 * 1024


class NixlTransport:
    """Reads blocks through NIXL."""

    name = "nixl"

    def __init__(
        self,
        memory: BlockMemory,
        *,
        engine_id: str,
        recycle_seconds: float,
        everywhere: bool,
        faults: TransferFaults | None = None,
    ) -> None:
        self._memory = memory
        self._engine_id = engine_id
        self._everywhere = everywhere
        self._faults = faults
        self._api: Any = None
        self._agents_made = 0
        self._failed = 0
        self._thread = NixlThread(self._make_agent, recycle_seconds=recycle_seconds)
        self._endpoint: NixlEndpoint | None = None
        self._observed: deque[tuple[str, float]] = deque(maxlen=4096)

    def start(self) -> None:
        """Load NIXL and make its agents.

        Raises:
            ConfigError: NIXL is missing or cannot work here.
        """
        self._api = nixl_library.load(os.environ)
        try:
            metadata = self._thread.start()
        except Exception as error:
            raise ConfigError(
                f"--kv-transport nixl cannot start: {error}; UCX_TLS, UCX_NET_DEVICES and"
                " UCX_TCP_PORT_RANGE must suit this machine"
            ) from error
        cma = machine.allows_cma(os.environ.get("UCX_TLS", "all"))
        self._endpoint = NixlEndpoint(
            metadata=metadata,
            base_address=self._memory.base_address(),
            machine=machine.machine_identity() if cma else "",
            process_id=os.getpid(),
            rdma=machine.has_rdma(),
        )

    def endpoint(self) -> NixlEndpoint | None:
        """How peers read from here."""
        return self._endpoint

    def reaches(self, peer: Greeting) -> bool:
        """Whether this peer's memory can be read without its help, or we were told to try."""
        ours, theirs = self._endpoint, peer.nixl
        if ours is None or theirs is None or self.name not in peer.transports:
            return False
        if self._everywhere or (ours.rdma and theirs.rdma):
            return True
        same_machine = ours.machine == theirs.machine != ""
        return same_machine and machine.can_read(theirs.process_id, theirs.base_address)

    def read(self, link: Link, wanted: Wanted, opened: Opened) -> Landing:
        """Prepare a read of opened blocks."""
        assert link.peer.nixl is not None
        size = 1 if self._faults else max(1, SLICE_BYTES // self._memory.block_bytes)
        reads = [
            (opened.block_ids[start : start + size], wanted.block_ids[start : start + size])
            for start in range(0, len(wanted.block_ids), size)
        ]
        return _NixlLanding(self, link.peer.nixl, reads)

    def exporting(self, opened: bool) -> None:
        """Drive the exporting agent while peers may connect to it and read."""
        self._thread.export(opened)

    def stats(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        """The NIXL series of vLLM, and how many agents had to be recycled."""
        observed: dict[str, list[float]] = {}
        while self._observed:
            name, value = self._observed.popleft()
            observed.setdefault(name, []).append(value)
        counters = {
            "steelyard:kv_nixl_agents_recycled_total": float(self._thread.recycled),
            "vllm:nixl_num_failed_transfers_total": float(self._failed),
        }
        return counters, observed

    def close(self) -> None:
        """Destroy the agents; reads end."""
        self._thread.close()

    def _make_agent(self, purpose: str) -> Agent:
        self._agents_made += 1
        name = f"{self._engine_id}/{purpose}-{self._agents_made}"
        return Agent(self._api, name, self._memory)

    async def before_block(self, position: int) -> None:
        """Let a test's fault act."""
        if self._faults is not None:
            await self._faults.before_block(position)

    def start_read(self, read: Read) -> None:
        """Hand a read to the thread."""
        self._thread.read(read)

    def abandon(self, read: Read) -> None:
        """Tell the thread that only the end of a read matters now."""
        self._thread.abandon(read)

    def broke(self) -> None:
        """Note a read that NIXL gave up."""
        self._failed += 1

    def landed(self, seconds: float, num_blocks: int) -> None:
        """Note a read that is complete, in vLLM's terms."""
        self._observed.append(("vllm:nixl_xfer_time_seconds", seconds))
        num_bytes = float(num_blocks * self._memory.block_bytes)
        self._observed.append(("vllm:nixl_bytes_transferred", num_bytes))
        self._observed.append(("vllm:nixl_num_descriptors", float(num_blocks)))


class _NixlLanding:
    """The slices of one pull, one after the other."""

    def __init__(
        self,
        transport: NixlTransport,
        endpoint: NixlEndpoint,
        slices: list[tuple[list[int], tuple[int, ...]]],
    ) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._slices = slices
        self._current: tuple[Read, asyncio.Future[State]] | None = None

    async def finish(self) -> None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        num_blocks = 0
        for theirs, ours in self._slices:
            await self._transport.before_block(num_blocks)
            state = await asyncio.shield(self._begin(tuple(theirs), ours))
            self._current = None
            if state != "DONE":
                self._transport.broke()
                raise TransportBrokenError("transfer", "NIXL reports that the read failed")
            num_blocks += len(ours)
        self._transport.landed(loop.time() - started_at, num_blocks)

    def _begin(self, theirs: tuple[int, ...], ours: tuple[int, ...]) -> "asyncio.Future[State]":
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[State] = loop.create_future()

        def tell(state: State) -> None:
            loop.call_soon_threadsafe(ended.set_result, state)

        read = Read(
            metadata=self._endpoint.metadata,
            base_address=self._endpoint.base_address,
            theirs=theirs,
            ours=ours,
            ended=tell,
        )
        self._current = (read, ended)
        self._transport.start_read(read)
        return ended

    async def settle(self) -> None:
        if self._current is None:
            return
        read, ended = self._current
        self._transport.abandon(read)
        await ended

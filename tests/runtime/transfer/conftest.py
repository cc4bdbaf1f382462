"""Workers with transfer over plain memory, in this process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from steelyard_runtime.config import TransferConfig
from steelyard_runtime.ipc.messages import RemotePrefill
from steelyard_runtime.testing.block_memory import PlainBlockMemory
from steelyard_runtime.testing.processes import thread_states, wait_for
from steelyard_runtime.testing.transfer_peer import remote_prefill
from steelyard_runtime.transfer.interface import TransferEvent
from steelyard_runtime.transfer.nixl_library import is_installed
from steelyard_runtime.transfer.registry import make_transfer
from steelyard_runtime.transfer.worker import TransferWorker

BLOCK_BYTES = 64 * 1024
NUM_BLOCKS = 16
BASE = TransferConfig(transport="tcp", port=0, token="token", lease_seconds=20, deadline_seconds=10)


@dataclass
class Node:
    """A worker's transfer, its pool, and the events it has given so far."""

    transfer: TransferWorker
    memory: PlainBlockMemory
    seen: list[TransferEvent] = field(default_factory=list)

    def take(self) -> list[TransferEvent]:
        """Add what came to `seen` and return all."""
        self.seen += self.transfer.events()
        return self.seen

    def wait_for(self, kind: type, request_id: str, seconds: float = 20) -> Any:
        """Return the first event of a kind for a request."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for event in self.take():
                if isinstance(event, kind) and event.request_id == request_id:
                    return event
            time.sleep(0.002)
        raise AssertionError(f"no {kind.__name__} for {request_id} within {seconds} s: {self.seen}")

    def counter(self, name: str) -> float:
        """Return a counter's value."""
        return self.transfer.stats()[1][name]

    def gauge(self, name: str) -> float:
        """Return a gauge's value."""
        return self.transfer.stats()[0][name]


MakeNode = Callable[..., Node]


@pytest.fixture
def remote() -> Callable[[dict[str, Any]], RemotePrefill]:
    return remote_prefill


@pytest.fixture
def nixl() -> str:
    """Run a test over NIXL alone."""
    if not is_installed():
        pytest.skip("NIXL is not installed (pip install 'steelyard[nixl]')")
    return "nixl"


@pytest.fixture(params=["tcp", "nixl"])
def transport(request: pytest.FixtureRequest) -> str:
    """Run a test over both transports."""
    return str(request.getfixturevalue("nixl") if request.param == "nixl" else request.param)


@pytest.fixture
def make_node() -> Iterator[MakeNode]:
    """Start workers; keyword arguments go to the configuration, or name the engine."""
    nodes: list[Node] = []

    def make(
        *,
        engine_id: str = "",
        fingerprint: str = "f" * 64,
        num_blocks: int = NUM_BLOCKS,
        block_bytes: int = BLOCK_BYTES,
        faults: str = "",
        on_event: Callable[[], None] | None = None,
        **config: Any,
    ) -> Node:
        memory = PlainBlockMemory(num_blocks, block_bytes)
        memory.fill(len(nodes) + 1)
        transfer = make_transfer(
            msgspec.structs.replace(BASE, **config),
            engine_id=engine_id or f"engine-{len(nodes)}",
            fingerprint=fingerprint,
            memory=memory,
            environment={"STEELYARD_TEST_FAULTS": faults},
            on_event=on_event,
        )
        transfer.start()
        node = Node(transfer, memory)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.transfer.close()


class PeerProcess:
    """A prefill worker's transfer in a process of its own."""

    def __init__(self, num_blocks: int, block_bytes: int, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "steelyard_runtime.testing.transfer_peer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        )
        self._shape = {"num_blocks": num_blocks, "block_bytes": block_bytes, "seed": 7}
        self.memory = PlainBlockMemory(num_blocks, block_bytes)
        self.memory.fill(7)

    def start(self, config: TransferConfig) -> None:
        """Wait until it serves."""
        self.ask({"config": msgspec.to_builtins(config)} | self._shape)

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send a command and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def export(self, request_id: str, block_ids: list[int]) -> RemotePrefill:
        """Lease blocks of 16 tokens each."""
        command = {"export": [request_id, block_ids, 16 * len(block_ids)]}
        return remote_prefill(self.ask(command))

    def signal(self, number: int) -> None:
        """Send a signal; SIGSTOP takes a moment, in which a thread that runs still answers."""
        self.process.send_signal(number)
        pid = self.process.pid
        if number == signal.SIGSTOP:
            wait_for(lambda: thread_states(pid) == {"T"}, "a stopped process")

    def stop(self) -> None:
        """End the process, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@pytest.fixture
def make_peer() -> Iterator[Callable[..., PeerProcess]]:
    """Start prefill processes; keyword arguments go to the configuration."""
    peers: list[PeerProcess] = []

    def make(
        *,
        num_blocks: int = NUM_BLOCKS,
        block_bytes: int = BLOCK_BYTES,
        environment: dict[str, str] | None = None,
        **config: Any,
    ) -> PeerProcess:
        peers.append(PeerProcess(num_blocks, block_bytes, environment or {}))
        peers[-1].start(msgspec.structs.replace(BASE, **config))
        return peers[-1]

    yield make
    for peer in peers:
        peer.stop()


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition with a deadline."""

    def wait(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not happen within {seconds} s")
            time.sleep(0.005)

    return wait

"""The services under fault, one per checkpoint and transport, each started once for all faults."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.cached_blocks import CachedBlocks, read_cached_blocks
from steelyard_runtime.testing.processes import SMOLLM2, wait_for
from steelyard_runtime.testing.streams import Completion, Streams
from steelyard_runtime.testing.supervised import Slot, SupervisedService
from steelyard_runtime.testing.tiny_checkpoint import write_tiny_checkpoint
from steelyard_runtime.transfer.nixl_library import is_installed

LEASE_SECONDS = 3.0
DEADLINE_SECONDS = 2.0
NUM_STREAMS = 8
WORKER_FLAGS = [
    "--threads=1",
    "--max-num-batched-tokens=64",  # so that a prompt has several chunks
    "--max-model-len=1024",
    "--num-gpu-blocks-override=512",
    f"--kv-lease-seconds={LEASE_SECONDS}",
    f"--kv-transfer-deadline-seconds={DEADLINE_SECONDS}",
]
REPORT = pytest.StashKey[list[dict[str, Any]]]()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model, the size of its KV blocks, and how much a test may ask of it."""

    uri: str | None  # None: written by the test
    block_bytes: int
    output_tokens: int


CHECKPOINTS = {
    "tiny": Checkpoint(None, 512 * 1024, 48),
    "smollm2": Checkpoint(SMOLLM2, 720 * 1024, 24),
}
# Flags and environment. UCX's TCP emulation is what `nixl` means between machines without RDMA.
TRANSPORTS: dict[str, tuple[str, dict[str, str]]] = {
    "tcp": ("tcp", {}),
    "nixl": ("nixl", {}),
    "nixl_over_tcp": ("nixl", {"UCX_TLS": "tcp"}),
}


@dataclass
class Ground:
    """A service, the answers that it gives undisturbed, and blocks that no fault may touch."""

    service: SupervisedService
    checkpoint: Checkpoint
    setup: str
    report: list[dict[str, Any]]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    right: list[Completion] = field(default_factory=list)
    bystander: dict[str, Any] = field(default_factory=dict)  # a prompt that is in every cache

    def start(self, salt: str, count: int = NUM_STREAMS) -> Streams:
        """Start the streams; a new salt makes every cache cold for them."""
        bodies = [{**body, "cache_salt": salt} for body in self.bodies[:count]]
        return Streams(self.service.router.url, bodies)

    def pulls(self) -> tuple[float, float]:
        """Return how many pulls the decode workers completed, in all and over NIXL."""
        workers = [slot.worker for slot in self.service.decodes]
        return (
            sum(each.metric("steelyard:kv_pulls_total", result="done") for each in workers),
            sum(each.metric("vllm:nixl_xfer_time_seconds_count") for each in workers),
        )

    def check_transfer(self, salt: str, count: int) -> None:
        """Check that cold prompts are prefilled remotely and pulled by the setup's transport."""
        done, over_nixl = self.pulls()
        streams = self.start(salt, count).wait()
        assert streams.errors() == []
        assert streams.completions() == self.right[:count]
        # Over UCX's TCP our own TCP may have taken over for a while.
        nixl = {"tcp": {0}, "nixl": {count}}.get(self.setup.partition("-")[2], range(count + 1))

        def counted() -> bool:
            now_done, now_nixl = self.pulls()
            return now_done - done == count and now_nixl - over_nixl in nixl

        wait_for(counted, f"{count} pulls over the transport of {self.setup}")

    def cached(self, slot: Slot) -> CachedBlocks:
        """Return the bystander's blocks in a worker."""
        return read_cached_blocks(
            slot.worker, self.bystander, block_bytes=self.checkpoint.block_bytes
        )

    def note(
        self,
        *,
        fault: str,
        repetition: int,
        streams: Streams,
        counter: tuple[str, dict[str, str]],
        increase: float,
        settle_seconds: float,
    ) -> None:
        """Add a line to the report."""
        answers = zip(streams.completions(), self.right, strict=True)
        self.report.append(
            {
                "fault": fault,
                "setup": self.setup,
                "repetition": repetition,
                "requests": len(self.right),
                "failures": sum(given != right for given, right in answers),
                "counter": " ".join([counter[0], *counter[1].values()]),
                "increase": increase,
                "settle_seconds": round(settle_seconds, 3),
            }
        )


@pytest.fixture(scope="session")
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """A running service with its undisturbed answers, the same colocated and split."""
    name, _, how = request.param.partition("-")
    checkpoint, (transport, environment) = CHECKPOINTS[name], TRANSPORTS[how]
    if transport == "nixl" and not is_installed():
        pytest.skip("NIXL is not installed")
    folder = tmp_path_factory.mktemp(f"chaos-{request.param}")
    if checkpoint.uri is None:
        write_tiny_checkpoint(folder / "model")
    service = SupervisedService(
        checkpoint.uri or str(folder / "model"),
        folder,
        flags=[*WORKER_FLAGS, "--kv-transport", transport],
        environment={"OMP_WAIT_POLICY": "passive", **environment},
    )
    with service:
        service.wait_whole()
        ground = Ground(service, checkpoint, request.param, request.config.stash[REPORT])
        text = (Path(__file__).parents[2] / "LICENSE").read_text()
        for index in range(NUM_STREAMS):
            start = 500 + 1000 * index
            ground.bodies.append(
                {
                    "prompt": text[start : start + 1000 + 40 * index],
                    "max_tokens": checkpoint.output_tokens,
                    "ignore_eos": True,
                    **({"temperature": 0} if index % 2 else {"temperature": 0.8, "seed": index}),
                }
            )
        ground.bystander = {"prompt": text[9500:10500], "temperature": 0}
        worker = service.decodes[0].worker
        ground.right = Streams(worker.url, ground.bodies).wait().completions()
        assert {each.completion_tokens for each in ground.right} == {checkpoint.output_tokens}
        ground.check_transfer("undisturbed", NUM_STREAMS)
        yield ground


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat each fault `--repetitions` times in each of `--chaos-setups`."""
    if "ground" in metafunc.fixturenames:
        setups = metafunc.config.getoption("chaos_setups").split(",")
        metafunc.parametrize("ground", setups, indirect=True, scope="session")
    if "repetition" in metafunc.fixturenames:
        metafunc.parametrize("repetition", range(metafunc.config.getoption("repetitions")))


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the report."""
    config.stash[REPORT] = []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the report, and write it where `--chaos-report` says."""
    report = config.stash[REPORT]
    if not report:
        return
    terminalreporter.section("faults")
    for line in report:
        terminalreporter.write_line(json.dumps(line))
    target = config.getoption("chaos_report")
    if target is not None:
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + os.linesep)

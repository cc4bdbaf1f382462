"""Two services under fault, one per transport, each started once and used by all faults."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.cached_blocks import CachedBlocks, read_cached_blocks
from steelyard_runtime.testing.streams import Completion, Streams
from steelyard_runtime.testing.supervised import Slot, SupervisedService
from steelyard_runtime.testing.tiny_checkpoint import write_tiny_checkpoint
from steelyard_runtime.transfer.nixl_library import is_installed

LEASE_SECONDS = 3.0
DEADLINE_SECONDS = 1.0
NUM_STREAMS = 8
OUTPUT_TOKENS = 48
WORKER_FLAGS = [
    "--threads=1",
    "--max-num-batched-tokens=64",  # so that a prompt has several chunks
    "--max-model-len=1024",
    "--kv-cache-memory-bytes=320M",
    f"--kv-lease-seconds={LEASE_SECONDS}",
    f"--kv-transfer-deadline-seconds={DEADLINE_SECONDS}",
]
ROUTER_FLAGS = ["--prefill-timeout-seconds=2"]
BLOCK_BYTES = 512 * 1024
REPORT = pytest.StashKey[list[dict[str, Any]]]()


@dataclass
class Ground:
    """A service, the answers that it gives undisturbed, and blocks that no fault may touch."""

    service: SupervisedService
    transport: str
    report: list[dict[str, Any]]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    right: list[Completion] = field(default_factory=list)
    bystander: dict[str, Any] = field(default_factory=dict)  # a prompt that is in every cache

    def start(self, salt: str) -> Streams:
        """Start the streams; a new salt makes every cache cold for them."""
        return Streams(
            self.service.router.url, [{**body, "cache_salt": salt} for body in self.bodies]
        )

    def cached(self, slot: Slot) -> CachedBlocks:
        """Return the bystander's blocks in a worker."""
        return read_cached_blocks(slot.worker, self.bystander, block_bytes=BLOCK_BYTES)

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
                "transport": self.transport,
                "repetition": repetition,
                "requests": len(self.right),
                "failures": sum(given != right for given, right in answers),
                "counter": " ".join([counter[0], *counter[1].values()]),
                "increase": increase,
                "settle_seconds": round(settle_seconds, 3),
            }
        )


@pytest.fixture(scope="session", params=["tcp", "nixl"])
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """A running service with its undisturbed answers, colocated and split."""
    if request.param == "nixl" and not is_installed():
        pytest.skip("NIXL is not installed")
    folder = tmp_path_factory.mktemp(f"chaos-{request.param}")
    model = folder / "model"
    write_tiny_checkpoint(model)
    service = SupervisedService(
        str(model),
        folder,
        flags=[*WORKER_FLAGS, "--kv-transport", request.param],
        router_flags=ROUTER_FLAGS,
        environment={"OMP_WAIT_POLICY": "passive"},
    )
    with service:
        service.wait_whole()
        ground = Ground(service, request.param, request.config.stash[REPORT])
        text = (Path(__file__).parents[2] / "LICENSE").read_text()
        for index in range(NUM_STREAMS):
            start = 500 + 1000 * index
            ground.bodies.append(
                {
                    "prompt": text[start : start + 700 + 40 * index],
                    "max_tokens": OUTPUT_TOKENS,
                    "ignore_eos": True,
                    **({"temperature": 0} if index % 2 else {"temperature": 0.8, "seed": index}),
                }
            )
        ground.bystander = {"prompt": text[9500:10500], "temperature": 0}
        worker = service.decodes[0].worker
        ground.right = Streams(worker.url, ground.bodies).wait().completions()
        assert {each.completion_tokens for each in ground.right} == {OUTPUT_TOKENS}
        split = ground.start("undisturbed").wait()
        assert split.errors() == []
        assert split.completions() == ground.right
        yield ground


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat each fault `--repetitions` times."""
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

"""The operator as a program, and what it says of itself."""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from steelyard_operator.bench.control_plane import OPERATOR_NAMESPACE
from steelyard_operator.bench.options import Options
from steelyard_operator.bench.programs import cpu_seconds, free_ports, memory_mb, running
from steelyard_operator.errors import OperatorError
from steelyard_operator.testing.cluster import ROOT


@dataclass(slots=True)
class Operator:
    """An operator that runs."""

    process: subprocess.Popen[bytes]
    metrics_port: int
    session: aiohttp.ClientSession
    began: float = field(default_factory=time.monotonic)

    async def metrics(self) -> Mapping[str, float]:
        """Return its figures, summed over their labels; results and codes by `NAME{VALUE}`."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        found: dict[str, float] = defaultdict(float)
        try:
            async with self.session.get(url) as answer:
                text = await answer.text()
        except aiohttp.ClientError as error:
            if self.process.poll() is not None:
                raise OperatorError("the operator has ended; its log says why") from error
            return found
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] += sample.value
                for label in ("result", "code"):
                    if label in sample.labels:
                        found[f"{sample.name}{{{sample.labels[label]}}}"] += sample.value
        return found

    async def is_steady(self, options: Options) -> bool:
        """Whether it has done a pass over each service, read each router, and has no more to do."""
        found = await self.metrics()
        return (
            found["steelyard_operator_services"] >= options.services
            and found["steelyard_operator_reconciles_total{done}"] >= options.services
            and found["steelyard_operator_router_requests_total{200}"] >= options.routers
            and found["steelyard_operator_queue_depth"] == 0
        )

    def memory_mb(self) -> tuple[float, float]:
        """Return its memory, now and at its highest."""
        return memory_mb(self.process.pid)

    def cpu_seconds(self) -> float:
        """Return how long it has computed."""
        return cpu_seconds(self.process.pid)


@asynccontextmanager
async def operating(folder: Path, kubeconfig: Path, name: str) -> AsyncIterator[Operator]:
    """Run an operator for the time of the block.

    Args:
        folder: for its log and its ledger.
        kubeconfig: how it reaches the API server.
        name: of its files.
    """
    key = folder / "master-key"
    key.write_text("k" * 32)
    (port,) = free_ports(1)
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(ROOT / "operator"),
        "PYTHONUNBUFFERED": "1",
        "STEELYARD_OPERATOR_NAMESPACE": OPERATOR_NAMESPACE,
        "STEELYARD_MASTER_KEY_FILE": str(key),
        "STEELYARD_METRICS_PORT": str(port),
    }
    command = [sys.executable, "-m", "steelyard_operator.cli", "operator"]
    with ExitStack() as stack:
        process = stack.enter_context(running(command, folder / f"{name}.log", environment))
        async with aiohttp.ClientSession() as session:
            yield Operator(process, port, session)

"""The operator as a program, and what it says of itself.

One that ends by itself (an API server that was too busy cost it its Lease, say) is started again,
as a kubelet does, and counted.
"""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from steelyard_operator.bench.control_plane import OPERATOR_NAMESPACE
from steelyard_operator.bench.options import Options
from steelyard_operator.errors import OperatorError
from steelyard_operator.testing.cluster import ROOT
from steelyard_operator.testing.programs import cpu_seconds, free_ports, memory_mb, running

MOST_RESTARTS = 20
READ = tuple(
    f"steelyard_operator_{name}"
    for name in ("services", "reconciles_total", "router_requests_total", "queue_depth")
)


@dataclass(slots=True)
class Operator:
    """An operator that runs."""

    process: subprocess.Popen[bytes]
    metrics_port: int
    session: aiohttp.ClientSession
    start: Callable[[int], subprocess.Popen[bytes]]
    """Starts it once more; the number goes into the names of its files."""
    began: float = field(default_factory=time.monotonic)
    restarts: int = 0

    def look_after(self) -> None:
        """Start it again if it has ended.

        Raises:
            OperatorError: it ends again and again.
        """
        if self.process.poll() is None:
            return
        self.restarts += 1
        if self.restarts > MOST_RESTARTS:
            raise OperatorError("the operator ends again and again; its logs say why")
        self.process = self.start(self.restarts)

    async def metrics(self) -> Mapping[str, float]:
        """Return its figures, summed over their labels; results and codes by `NAME{VALUE}`."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        found: dict[str, float] = defaultdict(float)
        try:
            async with self.session.get(url) as answer:
                text = await answer.text()
        except aiohttp.ClientError:
            return found  # it does not listen yet
        # A service has figures of its own: of a thousand the page has a megabyte.
        lines = [line for line in text.splitlines() if line.startswith(READ)]
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                found[sample.name] += sample.value
                for label in ("result", "code"):
                    if label in sample.labels:
                        found[f"{sample.name}{{{sample.labels[label]}}}"] += sample.value
        return found

    async def is_steady(self, options: Options) -> bool:
        """Whether it has done a pass over each service, read each router, and has no more to do."""
        self.look_after()
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

        def start(number: int) -> subprocess.Popen[bytes]:
            log = folder / (f"{name}-{number}.log" if number else f"{name}.log")
            return stack.enter_context(running(command, log, environment))

        async with aiohttp.ClientSession() as session:
            yield Operator(start(0), port, session, start)

"""The router's metrics (docs/contract.md, section 6). Children are bound once per model."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from steelyard_runtime.router.pool import WorkerPool

_LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5,
    0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
)  # fmt: skip
_TPOT_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05,
    0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0,
)  # fmt: skip


class _WorkerGauges(Collector):
    """Reads the pool at each scrape: gauges of gone workers go with them."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        healthy = GaugeMetricFamily(
            "steelyard_router:worker_healthy", "1 where new requests may go.", labels=["worker"]
        )
        in_flight = GaugeMetricFamily(
            "steelyard_router:in_flight", "Requests at the worker now.", labels=["worker"]
        )
        for worker in self._pool.workers:
            healthy.add_metric([worker.id], float(worker.routable))
            in_flight.add_metric([worker.id], worker.in_flight)
        yield healthy
        yield in_flight


class RouterMetrics:
    """Counters and histograms of one router."""

    def __init__(self, model: str, pool: WorkerPool) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_WorkerGauges(pool))
        self._model = model
        self._requests = Counter(
            "steelyard_router:requests",
            "Requests by status; 499 is a client that went away.",
            ["model", "code"],
            registry=self._registry,
        )
        self.ttft_seconds = self._histogram(
            "ttft_seconds", "Arrival to the first token's event.", _LATENCY_BUCKETS
        )
        self.tpot_seconds = self._histogram(
            "tpot_seconds", "First to last token over the tokens between.", _TPOT_BUCKETS
        )
        self.e2e_seconds = self._histogram(
            "e2e_seconds", "Arrival to the last byte.", _LATENCY_BUCKETS
        )
        self.prefill_decisions = self._counter(
            "prefill_decisions", "Where prompts were prefilled, and why.", "decision"
        )
        self.prefill_fallbacks = self._counter(
            "prefill_fallbacks", "Requests that went decode-only after a prefill failed.", "reason"
        )
        self.retries = self._counter(
            "retries", "Attempts that failed before the first token and went elsewhere.", "reason"
        )
        self.replays = self._counter(
            "replays", "Streams whose worker failed, continued on another.", "result"
        )
        self.membership_failures = self._counter(
            "membership_failures",
            "Readings of the membership that failed; the last one stays.",
            "reason",
        )
        for decision in ("remote", "short", "warm", "no_prefill_worker", "unsuitable"):
            self.prefill_decisions.labels(decision)
        for result in ("done", "failed"):
            self.replays.labels(result)

    def request(self, code: int) -> None:
        """Count one answered request."""
        self._requests.labels(self._model, str(code)).inc()

    def page(self) -> bytes:
        """Return the metrics page in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"steelyard_router:{name}", text, [label], registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"steelyard_router:{name}", text, ["model"], registry=self._registry, buckets=buckets
        )
        return histogram.labels(self._model)

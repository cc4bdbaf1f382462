"""What the operator's metrics tell of each service: workers that are paid for, latency and cost.

A service's series go when it goes.
"""

from prometheus_client import Counter, Gauge

from steelyard_operator.kube.metrics import REGISTRY
from steelyard_operator.planning.balance.signals import Split
from steelyard_operator.planning.measured import Measured

SERVICE = ["namespace", "service"]

WORKERS = Gauge(
    "steelyard_operator_service_workers",
    "Workers of a service that are paid for, by role; those that drain count for decode.",
    [*SERVICE, "role"],
    registry=REGISTRY,
)
LATENCY_SECONDS = Gauge(
    "steelyard_operator_service_latency_seconds",
    "Latency that the objectives' share of streams kept, in the last ten minutes: ttft, tpot.",
    [*SERVICE, "kind"],
    registry=REGISTRY,
)
COST = Gauge(
    "steelyard_operator_service_cost_per_million_tokens",
    "Cost of a million tokens in the last ten minutes, in the resource's currency: total, input, "
    "output.",
    [*SERVICE, "kind"],
    registry=REGISTRY,
)
WORKER_SECONDS = Counter(
    "steelyard_operator_service_worker_seconds",
    "Time of workers that was paid for, by role.",
    [*SERVICE, "role"],
    registry=REGISTRY,
)

ROLES = ("prefill", "decode")


def measure_service(
    namespace: str, name: str, found: Measured, paid: Split, seconds: float
) -> None:
    """Bring a service's series up to date.

    Args:
        namespace: of the service.
        name: of the service.
        found: what was measured.
        paid: workers that there are.
        seconds: since the last time.
    """
    for role, count in zip(ROLES, (paid.prefill, paid.decode), strict=True):
        WORKERS.labels(namespace, name, role).set(count)
        WORKER_SECONDS.labels(namespace, name, role).inc(count * seconds)
    seen, cost = found.objectives, found.cost
    for kind, milliseconds in (
        ("ttft", seen.ttft_milliseconds if seen else None),
        ("tpot", seen.tpot_milliseconds if seen else None),
    ):
        if milliseconds is not None:
            LATENCY_SECONDS.labels(namespace, name, kind).set(milliseconds / 1000)
        else:
            LATENCY_SECONDS.remove_by_labels(_labels(namespace, name, "kind", kind))
    for kind, price in (
        ("total", cost.per_million_tokens if cost else None),
        ("input", cost.per_million_input if cost else None),
        ("output", cost.per_million_output if cost else None),
    ):
        if price is not None:
            COST.labels(namespace, name, kind).set(float(price))
        else:
            COST.remove_by_labels(_labels(namespace, name, "kind", kind))


def unmeasure_service(namespace: str, name: str) -> None:
    """Drop a service's series."""
    for metric in (WORKERS, LATENCY_SECONDS, COST, WORKER_SECONDS):
        metric.remove_by_labels({"namespace": namespace, "service": name})


def _labels(namespace: str, name: str, label: str, value: str) -> dict[str, str]:
    return {"namespace": namespace, "service": name, label: value}

"""What the operator's metrics tell of each service: workers that are paid for, latency and cost.

A service's series go when it goes.
"""

from prometheus_client import Counter, Gauge

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.kube.metrics import REGISTRY
from steelyard_operator.planning.balance.signals import Split
from steelyard_operator.planning.bounding import ceiling
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
OBJECTIVE_SECONDS = Gauge(
    "steelyard_operator_service_objective_seconds",
    "Objective of a latency, where the resource sets one: ttft, tpot.",
    [*SERVICE, "kind"],
    registry=REGISTRY,
)
CEILING = Gauge(
    "steelyard_operator_service_cost_ceiling_per_million_tokens",
    "What a million tokens may cost, where the resource sets it, in its currency.",
    SERVICE,
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
    service: InferenceService, found: Measured, paid: Split, seconds: float
) -> None:
    """Bring a service's series up to date.

    Args:
        service: as it is asked for.
        found: what was measured.
        paid: workers that there are.
        seconds: since the last time.
    """
    meta, goals = service.metadata, service.spec.objectives
    whose = (meta.namespace, meta.name)
    for role, count in zip(ROLES, (paid.prefill, paid.decode), strict=True):
        WORKERS.labels(*whose, role).set(count)
        WORKER_SECONDS.labels(*whose, role).inc(count * seconds)
    seen, cost = found.objectives, found.cost
    for kind, goal, milliseconds in (
        ("ttft", goals.ttft_milliseconds, seen.ttft_milliseconds if seen else None),
        ("tpot", goals.tpot_milliseconds, seen.tpot_milliseconds if seen else None),
    ):
        _say(OBJECTIVE_SECONDS, (*whose, kind), goal and goal / 1000)
        _say(LATENCY_SECONDS, (*whose, kind), milliseconds and milliseconds / 1000)
    for kind, price in (
        ("total", cost.per_million_tokens if cost else None),
        ("input", cost.per_million_input if cost else None),
        ("output", cost.per_million_output if cost else None),
    ):
        _say(COST, (*whose, kind), None if price is None else float(price))
    _say(CEILING, whose, ceiling(service))


def unmeasure_service(namespace: str, name: str) -> None:
    """Drop a service's series."""
    for metric in (WORKERS, LATENCY_SECONDS, OBJECTIVE_SECONDS, COST, CEILING, WORKER_SECONDS):
        metric.remove_by_labels({"namespace": namespace, "service": name})


def _say(metric: Gauge, labels: tuple[str, ...], value: float | None) -> None:
    """Set a series, or drop it where nothing is known."""
    if value is None:
        names = (*SERVICE, "kind")[: len(labels)]
        metric.remove_by_labels(dict(zip(names, labels, strict=True)))
    else:
        metric.labels(*labels).set(value)

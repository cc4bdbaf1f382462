"""What a service's status tells of its latencies, its cost and its planner's choices."""

from collections.abc import Iterator
from dataclasses import dataclass

from steelyard_operator.api.status import ConditionStatus, CostStatus, Decision, ObservedObjectives
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning import reasons
from steelyard_operator.planning.balance.meter import Cost
from steelyard_operator.planning.balancing import Balance, dollars, milliseconds
from steelyard_operator.planning.bounding import ceiling, hourly


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured over the last ten minutes; None where nothing came."""

    objectives: ObservedObjectives | None = None
    cost: CostStatus | None = None
    decisions: tuple[Decision, ...] = ()
    over: tuple[str, ...] = ()
    """Latencies that are longer than their objectives, in words."""
    is_over_ceiling: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a goal is met, and a sentence."""

    status: ConditionStatus
    reason: str
    message: str


def measured(service: InferenceService, balance: Balance) -> Measured:
    """Return what a balance says of its service."""
    goals = service.spec.objectives
    total = balance.meter.total
    ttft, tpot = total.latencies(goals.percentile / 100)
    seconds = round(total.seconds)
    seen = None
    if ttft is not None or tpot is not None:
        seen = ObservedObjectives(
            ttft_milliseconds=milliseconds(ttft),
            tpot_milliseconds=milliseconds(tpot),
            percentile=goals.percentile,
            window_seconds=seconds,
        )
    price = hourly(service)
    cost = total.cost(price) if price else Cost(None, None, None)
    limit = ceiling(service)
    return Measured(
        objectives=seen,
        cost=_cost(service, cost, seconds),
        decisions=balance.decisions,
        over=tuple(_over(service, ttft, tpot)),
        is_over_ceiling=limit is not None and cost.tokens is not None and cost.tokens > limit,
    )


def within_objectives(service: InferenceService, found: Measured | None) -> Verdict:
    """Return whether both latencies keep their objectives."""
    goals = service.spec.objectives
    if not (goals.ttft_milliseconds or goals.tpot_milliseconds):
        return Verdict(ConditionStatus.UNKNOWN, reasons.NO_OBJECTIVES, "no objective is given")
    if found is None or found.objectives is None:
        return Verdict(ConditionStatus.UNKNOWN, reasons.NOT_MEASURED, "no stream has ended lately")
    if found.over:
        message = f"longer than the objective at {goals.percentile} %: {', '.join(found.over)}"
        return Verdict(ConditionStatus.FALSE, reasons.TOO_SLOW, message)
    return Verdict(
        ConditionStatus.TRUE,
        reasons.KEPT,
        f"{goals.percentile} % of streams keep them",
    )


def within_cost(service: InferenceService, found: Measured | None) -> Verdict:
    """Return whether a million tokens cost no more than the ceiling."""
    limit = ceiling(service)
    if limit is None:
        return Verdict(ConditionStatus.UNKNOWN, reasons.NO_CEILING, "no ceiling is given")
    if found is None or found.cost is None:
        return Verdict(ConditionStatus.UNKNOWN, reasons.NOT_MEASURED, "nothing was served lately")
    if found.is_over_ceiling:
        message = f"a million tokens cost more than the ceiling of {dollars(limit)}"
        return Verdict(ConditionStatus.FALSE, reasons.OVER_CEILING, message)
    return Verdict(
        ConditionStatus.TRUE, reasons.KEPT, f"a million tokens cost no more than {dollars(limit)}"
    )


def _over(service: InferenceService, ttft: float | None, tpot: float | None) -> Iterator[str]:
    goals = service.spec.objectives
    for name, seconds, most in (
        ("TTFT", ttft, goals.ttft_milliseconds),
        ("TPOT", tpot, goals.tpot_milliseconds),
    ):
        if most is not None and seconds is not None and seconds * 1000 > most:
            yield name


def _cost(service: InferenceService, cost: Cost, seconds: int) -> CostStatus | None:
    if cost.tokens is None or service.spec.cost is None:
        return None
    return CostStatus(
        per_million_tokens=dollars(cost.tokens),
        per_million_input=dollars(cost.input) if cost.input else None,
        per_million_output=dollars(cost.output) if cost.output else None,
        currency=service.spec.cost.currency,
        window_seconds=seconds,
    )

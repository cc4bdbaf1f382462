"""The conditions of one service: what holds, why, in a sentence (docs/conditions.md)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from steelyard_operator.api.names import Role
from steelyard_operator.api.optimisations import SpeculationMethod
from steelyard_operator.api.plan_status import PlanState, PlanStatus
from steelyard_operator.api.status import Condition, ConditionStatus, ConditionType
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning import reasons
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.draining import is_draining
from steelyard_operator.planning.measured import Measured, within_cost, within_objectives
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.planner import serving
from steelyard_operator.planning.trouble import Trouble, rolling

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN
MAX_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition without its times."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    message: str


def conditions(
    service: InferenceService,
    want: Desired,
    seen: Observed,
    troubles: Sequence[Trouble],
    *,
    running: PlanStatus | None = None,
    measured: Measured | None = None,
    generation: int,
    previous: Sequence[Condition],
    now: datetime,
) -> list[Condition]:
    """Return all conditions, in a fixed order; a transition time changes with the status alone."""
    old = {condition.type: condition for condition in previous}
    found = []
    for finding in (
        *_findings(service, want, seen, troubles, running),
        *_measured(service, measured),
    ):
        before = old.get(finding.type)
        same = before is not None and before.status is finding.status
        found.append(
            Condition(
                type=finding.type,
                status=finding.status,
                observed_generation=generation,
                last_transition_time=before.last_transition_time if same and before else now,
                reason=finding.reason,
                message=finding.message[:MAX_MESSAGE],
            )
        )
    return found


def _findings(
    service: InferenceService,
    want: Desired,
    seen: Observed,
    troubles: Sequence[Trouble],
    running: PlanStatus | None,
) -> Iterator[Finding]:
    prefill = _role(ConditionType.PREFILL_READY, Role.PREFILL, want, seen)
    decode = _role(ConditionType.DECODE_READY, Role.DECODE, want, seen)
    router = _router(want, seen)
    work = _work(want, seen, troubles, running)
    stalled = next((trouble for trouble in troubles if trouble.stalled), None)
    yield _ready((prefill, decode, router), troubles)
    yield Finding(
        ConditionType.RECONCILING,
        FALSE if work is None or (stalled and work.reason == reasons.PROGRESSING) else TRUE,
        work.reason if work else reasons.DONE,
        work.message if work else "everything is as it was asked for",
    )
    yield Finding(
        ConditionType.STALLED,
        TRUE if stalled else FALSE,
        stalled.reason if stalled else reasons.DONE,
        stalled.message if stalled else "nothing needs an edit",
    )
    yield _model(seen)
    yield prefill
    yield decode
    yield router
    yield from _optional(service)


def _ready(parts: Sequence[Finding], troubles: Sequence[Trouble]) -> Finding:
    for part in parts:
        if part.status is not TRUE:
            trouble = troubles[0] if troubles else None
            reason = trouble.reason if trouble else part.reason
            message = trouble.message if trouble else part.message
            return Finding(ConditionType.READY, FALSE, reason, message)
    grave = next((t for t in troubles if t.reason == reasons.NOT_SUPPORTED), None)
    if grave is not None:
        return Finding(ConditionType.READY, FALSE, grave.reason, grave.message)
    degraded = next((part for part in parts if part.reason == reasons.DEGRADED), None)
    if degraded is not None:
        return Finding(ConditionType.READY, TRUE, reasons.DEGRADED, degraded.message)
    return Finding(ConditionType.READY, TRUE, reasons.SERVING, "requests are served")


def _role(kind: ConditionType, role: Role, want: Desired, seen: Observed) -> Finding:
    wanted, ready = want.replicas(role), len(serving(seen, role))
    if wanted == 0:
        return Finding(kind, TRUE, reasons.NONE_WANTED, f"no {role.wire} worker is asked for")
    if ready >= wanted:
        return Finding(kind, TRUE, reasons.SERVING, f"{ready} of {wanted} workers are ready")
    if ready > 0:
        return Finding(kind, TRUE, reasons.DEGRADED, f"{ready} of {wanted} workers are ready")
    loading = any(role in p.roles and p.phase == "Running" for p in seen.pods)
    reason = reasons.STARTING if loading else reasons.NO_WORKER
    return Finding(kind, FALSE, reason, f"0 of {wanted} {role.wire} workers are ready")


def _router(want: Desired, seen: Observed) -> Finding:
    router = seen.router
    ready = router.ready if router else 0
    sentence = f"{ready} of {want.router_replicas} routers are ready"
    if ready == 0:
        said = f": {router.message}" if router and router.message else ""
        return Finding(ConditionType.ROUTER_READY, FALSE, reasons.ROUTER_DOWN, sentence + said)
    enough = ready >= want.router_replicas
    reason = reasons.SERVING if enough else reasons.DEGRADED
    return Finding(ConditionType.ROUTER_READY, TRUE, reason, sentence)


def _work(
    want: Desired, seen: Observed, troubles: Sequence[Trouble], running: PlanStatus | None
) -> Finding | None:
    """What is under way, or None."""

    def working(reason: str, message: str) -> Finding:
        return Finding(ConditionType.RECONCILING, TRUE, reason, message)

    if want.suspended:
        return None
    if want.deleting:
        return working(reasons.DELETING, "workers finish their requests")
    passing = next((trouble for trouble in troubles if not trouble.stalled), None)
    if passing is not None:
        return working(passing.reason, passing.message)
    old = rolling(want, seen)
    if old and not want.paused:
        return working(reasons.ROLLING_OUT, f"{len(old)} workers are still to be replaced")
    if running is not None and running.state is PlanState.RUNNING:
        return working(reasons.REBALANCING, running.message)
    draining = sum(1 for pod in seen.pods if is_draining(pod) or pod.deleting)
    if draining:
        return working(reasons.DRAINING, f"{draining} workers finish their requests or end")
    for role in (Role.PREFILL, Role.DECODE):
        ready = len(serving(seen, role))
        if ready != want.replicas(role):
            sentence = f"{ready} of {want.replicas(role)} {role.wire} workers are ready"
            return working(reasons.PROGRESSING, sentence)
    router = seen.router
    if router is None or not router.updated or router.ready < want.router_replicas:
        return working(reasons.PROGRESSING, "the router is being updated")
    return None


def _model(seen: Observed) -> Finding:
    kind = ConditionType.MODEL_READY
    if any(pod.ready for pod in seen.pods):
        return Finding(kind, TRUE, reasons.LOADED, "a worker has loaded the model")
    states = [seen.states[pod.uid] for pod in seen.pods if pod.uid in seen.states]
    furthest = max(states, key=lambda state: state.percent or 0, default=None)
    if furthest is not None and furthest.phase in ("loading", "warmup"):
        stage = furthest.stage or furthest.phase
        percent = f", {furthest.percent} %" if furthest.percent is not None else ""
        return Finding(kind, FALSE, reasons.LOADING, f"{stage}{percent}")
    return Finding(kind, FALSE, reasons.STARTING, "no worker has begun to load the model")


def _optional(service: InferenceService) -> Iterator[Finding]:
    spec = service.spec
    if spec.compression.quality_gate is not None:
        yield Finding(
            ConditionType.QUALITY_GATE_PASSED,
            UNKNOWN,
            reasons.NOT_SUPPORTED,
            "nothing is compressed",
        )
    asked = spec.speculation.method is not SpeculationMethod.NONE
    yield Finding(
        ConditionType.SPECULATION_ACTIVE,
        FALSE,
        reasons.NOT_SUPPORTED if asked else reasons.NOT_ASKED,
        "this version serves without speculation; answers are the same"
        if asked
        else "no speculation is asked for",
    )


def _measured(service: InferenceService, found: Measured | None) -> Iterator[Finding]:
    for kind, verdict in (
        (ConditionType.WITHIN_OBJECTIVES, within_objectives(service, found)),
        (ConditionType.WITHIN_COST, within_cost(service, found)),
    ):
        yield Finding(kind, verdict.status, verdict.reason, verdict.message)

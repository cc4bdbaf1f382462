"""The whole status of one service, and whether it is worth a write."""

from collections.abc import Sequence
from datetime import datetime

from steelyard_operator.api.names import Role
from steelyard_operator.api.operations import Switch
from steelyard_operator.api.plan_status import PlanStatus
from steelyard_operator.api.status import (
    Condition,
    ConditionStatus,
    ConditionType,
    InferenceServiceStatus,
    RatioStatus,
    RoleStatus,
)
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning import reasons
from steelyard_operator.planning.conditions import conditions
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.draining import is_draining
from steelyard_operator.planning.measured import Measured
from steelyard_operator.planning.observed import Observed, Pod
from steelyard_operator.planning.planner import serving
from steelyard_operator.planning.trouble import Trouble, troubles
from steelyard_operator.planning.untrusted import MOST


def status(
    service: InferenceService,
    *,
    generation: int,
    want: Desired,
    seen: Observed,
    running: PlanStatus | None = None,
    measured: Measured | None = None,
    previous: InferenceServiceStatus | None,
    url: str,
    now: datetime,
    refusal: str | None = None,
) -> InferenceServiceStatus:
    """Return the status that the facts give.

    Args:
        service: the resource.
        generation: of the resource that `want` was made from.
        want: the target.
        seen: the facts, before the plan.
        running: the plan in force, or the last one.
        measured: latencies, costs and decisions; None leaves what the status has.
        previous: the status as it is; what this function does not know of is kept.
        url: of the endpoint inside the cluster.
        now: the time.
        refusal: a sentence where the service is not served at all.
    """
    found: list[Trouble] = list(troubles(want, seen, now, refusal=refusal))
    if service.spec.suspend is Switch.ENABLED:
        found = [trouble for trouble in found if trouble.stalled]
    old = previous or InferenceServiceStatus()
    ready = {role: len(serving(seen, role)) for role in (Role.PREFILL, Role.DECODE)}
    decode = max(1, ready[Role.DECODE])
    return old.model_copy(
        update={
            "conditions": conditions(
                service,
                want,
                seen,
                found,
                running=running,
                measured=measured,
                generation=generation,
                previous=old.conditions,
                now=now,
            ),
            "plan": running,
            **_measured(measured),
            "observed_generation": generation,
            "url": url,
            "prefill": _role(Role.PREFILL, want, seen),
            "decode": _role(Role.DECODE, want, seen),
            "router": _router(want, seen),
            "ratio": RatioStatus(
                prefill_per_decode_percent=100 * ready[Role.PREFILL] // decode,
                target_percent=100 * want.prefill // max(1, want.decode),
            ),
        }
    )


def unreadable(
    sentence: str, generation: int, previous: Sequence[Condition], now: datetime
) -> list[Condition]:
    """Return the conditions of a resource that this operator cannot read.

    Args:
        sentence: what is wrong with it.
        generation: of the resource.
        previous: what its status says; where a condition's status stays, so does its time.
        now: the time.
    """
    since = {(each.type, each.status): each.last_transition_time for each in previous}

    def made(kind: ConditionType, state: ConditionStatus) -> Condition:
        return Condition(
            type=kind,
            status=state,
            observed_generation=generation,
            last_transition_time=since.get((kind, state), now),
            reason=reasons.NOT_VALID,
            message=sentence[:1000],
        )

    return [
        made(ConditionType.READY, ConditionStatus.FALSE),
        made(ConditionType.RECONCILING, ConditionStatus.FALSE),
        made(ConditionType.STALLED, ConditionStatus.TRUE),
    ]


def interrupted(
    sentence: str, reason: str, generation: int, previous: Sequence[Condition], now: datetime
) -> Condition:
    """Return the condition of a service over which a pass has failed, and is tried again."""
    kind, state = ConditionType.RECONCILING, ConditionStatus.TRUE
    since = {(each.type, each.status): each.last_transition_time for each in previous}
    return Condition(
        type=kind,
        status=state,
        observed_generation=generation,
        last_transition_time=since.get((kind, state), now),
        reason=reason,
        message=f"a pass over this service failed and is tried again: {sentence}"[:1000],
    )


def materially_different(old: InferenceServiceStatus | None, new: InferenceServiceStatus) -> bool:
    """Whether more changed than counts that come and go with every request."""
    return old is None or _lasting(old) != _lasting(new)


def _lasting(status: InferenceServiceStatus) -> dict[str, object]:
    return status.model_dump(
        exclude={
            "prefill": {"in_flight"},
            "decode": {"in_flight"},
            "objectives": True,
            "cost": True,
        }
    )


def _measured(found: Measured | None) -> dict[str, object]:
    if found is None:
        return {}
    return {
        "objectives": found.objectives,
        "cost": found.cost,
        "decisions": list(found.decisions),
    }


def _role(role: Role, want: Desired, seen: Observed) -> RoleStatus:
    pods = [pod for pod in seen.pods if role in pod.roles and not pod.deleting]
    leaving = [pod for pod in seen.pods if is_draining(pod) and _was(pod, role, seen)]
    ready, wanted = len(serving(seen, role)), want.replicas(role)
    return RoleStatus(
        summary=f"{ready}/{wanted}",
        replicas=len(pods),
        target_replicas=wanted,
        ready_replicas=ready,
        draining_replicas=len(leaving),
        in_flight=min(
            MOST,
            sum(
                seen.states[pod.uid].in_flight
                for pod in (*pods, *leaving)
                if pod.uid in seen.states
            ),
        ),
    )


def _was(pod: Pod, role: Role, seen: Observed) -> bool:
    state = seen.states.get(pod.uid)
    return state is not None and state.role is role


def _router(want: Desired, seen: Observed) -> RoleStatus:
    router = seen.router
    ready = router.ready if router else 0
    return RoleStatus(
        summary=f"{ready}/{want.router_replicas}",
        replicas=router.replicas if router else 0,
        target_replicas=want.router_replicas,
        ready_replicas=ready,
    )

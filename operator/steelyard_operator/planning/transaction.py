"""A change of the split as one transaction: when a plan begins, when it is done, when it is undone.

Pure and derived from the facts: a fresh operator comes to the same answer from `status.plan` and
the pods. One plan at a time; a rollout goes first. A plan that is rolled back leaves its workers to
the ordinary planner, which takes a drained one back into its old role.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from steelyard_operator.api.names import Role
from steelyard_operator.api.plan_status import (
    MOST_PLANNED_PODS,
    PlanKind,
    PlanState,
    PlanStatus,
    Workers,
)
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.draining import LATE, is_draining
from steelyard_operator.planning.flip import MOVING, Donor, Stand, donors, new_role
from steelyard_operator.planning.observed import Observed, Pod
from steelyard_operator.planning.planner import counting, serving
from steelyard_operator.planning.removal import OTHER
from steelyard_operator.planning.trouble import rolling

VERIFY = timedelta(seconds=30)
"""Beyond the drain, a worker may take so long to answer before its plan is rolled back."""

FLIP_AGAIN = timedelta(seconds=60)
"""So long after a rollback a split is reached by adding and removing, not by flips."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What becomes of the plan in one pass."""

    plan: PlanStatus | None
    changed: bool = False
    """It must be written before anything is done in its name."""
    reason: str = ""
    """Where it changed: one CamelCase word for an event."""


def advance(
    want: Desired, seen: Observed, plan: PlanStatus | None, *, now: datetime, epoch: int
) -> Turn:
    """Return the plan that is in force now.

    Args:
        want: the target.
        seen: the facts.
        plan: what the status says.
        now: the time.
        epoch: of a plan that begins now.
    """
    if want.suspended:
        return Turn(plan)
    if plan is not None and plan.state is PlanState.RUNNING:
        return _go_on(want, seen, plan, now)
    if want.deleting:
        return Turn(plan)
    begun = _begin(want, seen, plan, now, epoch)
    if begun is not None:
        return Turn(begun, changed=True, reason=f"{begun.kind}Planned")
    return _recommend(want, seen, plan, now, epoch)


def settled(want: Desired, turn: Turn) -> Desired:
    """Return the target as a plan that was rolled back in this pass leaves it."""
    plan = turn.plan
    if not turn.changed or plan is None or plan.state is not PlanState.ROLLED_BACK:
        return want
    ranged = want.ranged
    return replace(
        want,
        prefill=plan.target.prefill if Role.PREFILL in ranged else want.prefill,
        decode=plan.target.decode if Role.DECODE in ranged else want.decode,
    )


def moves(want: Desired, seen: Observed, now: datetime) -> list[tuple[Pod, Role]]:
    """Return the ready workers that are too many in their role and missing in the other."""
    if not want.flip or want.prefill_revision != want.decode_revision or rolling(want, seen):
        return []
    for role in (Role.PREFILL, Role.DECODE):
        other = OTHER[role]
        missing = want.replicas(role) - len(counting(seen, role, now))
        pods = [pod for pod in serving(seen, other) if pod.roles == {other}]
        spare = len(pods) - want.replicas(other)
        count = min(missing, spare, MOST_PLANNED_PODS)
        if count <= 0:
            continue
        able = [pod for pod in pods if _can_move(pod, other, want, seen)]
        able.sort(key=lambda pod: (seen.states[pod.uid].in_flight, -pod.created_at.timestamp()))
        return [(pod, role) for pod in able[:count]]
    return []


def _can_move(pod: Pod, role: Role, want: Desired, seen: Observed) -> bool:
    state = seen.states.get(pod.uid)
    if state is None or pod.revision != want.revision(role):
        return False
    return state.phase == "ready" and state.role in (None, role)


def _begin(
    want: Desired, seen: Observed, last: PlanStatus | None, now: datetime, epoch: int
) -> PlanStatus | None:
    failed_at = last.end_time if last and last.state is PlanState.ROLLED_BACK else None
    may_flip = failed_at is None or now >= failed_at + FLIP_AGAIN
    moving = moves(want, seen, now) if may_flip else []
    if not moving and want.split is None:
        return None
    kind = PlanKind.FLIP if moving else PlanKind.SCALE
    limit = timedelta(seconds=want.drain_seconds) + LATE + VERIFY
    if want.ranged:
        limit += timedelta(seconds=want.progress_deadline_seconds)
    source, target = _source(want, seen, moving, now), _target(want)
    return _plan(kind, source, target, moving, want=want, now=now, epoch=epoch, limit=limit)


def _recommend(
    want: Desired, seen: Observed, last: PlanStatus | None, now: datetime, epoch: int
) -> Turn:
    split = want.recommended
    if split is None:
        return Turn(last)
    source, target = _target(want), Workers(prefill=split.prefill, decode=split.decode)
    said = last is not None and last.state is PlanState.RECOMMENDED
    if source == target or (said and last and (last.source, last.target) == (source, target)):
        return Turn(last)
    flips = min(abs(source.prefill - target.prefill), abs(source.decode - target.decode))
    opposite = (source.prefill < target.prefill) == (source.decode > target.decode)
    kind = PlanKind.FLIP if want.flip and flips and opposite else PlanKind.SCALE
    made = _plan(kind, source, target, [], want=want, now=now, epoch=epoch, limit=timedelta())
    made = made.model_copy(update={"state": PlanState.RECOMMENDED})
    return Turn(made, reason="SplitRecommended")


def _plan(
    kind: PlanKind,
    source: Workers,
    target: Workers,
    moving: Sequence[tuple[Pod, Role]],
    *,
    want: Desired,
    now: datetime,
    epoch: int,
    limit: timedelta,
) -> PlanStatus:
    split = want.split or want.recommended
    numbers = f"{source.prefill}+{source.decode} to {target.prefill}+{target.decode}"
    how = f", {len(moving)} by a flip" if moving else ""
    why = f": {split.message}" if split and split.message else ""
    return PlanStatus(
        id=f"{now:%Y%m%d-%H%M%S}-{epoch}",
        message=f"prefill+decode workers from {numbers}{how}{why}"[:1000],
        epoch=epoch,
        kind=kind,
        source=source,
        target=target,
        pods=[pod.uid for pod, _ in moving],
        start_time=_whole(now),
        deadline_time=_whole(now + limit),
    )


def _go_on(want: Desired, seen: Observed, plan: PlanStatus, now: datetime) -> Turn:
    found = donors(plan, seen, now)
    if want.deleting:
        return _end(plan, found, "the service is being deleted", now)
    broken = next((d for d in found if d.stand in (Stand.LOST, Stand.OTHER)), None)
    moving = [d for d in found if d.stand in (Stand.BEFORE, *MOVING)]
    begun = [d for d in moving if d.stand is not Stand.BEFORE]
    if moving and not begun and rolling(want, seen):
        return _end(plan, found, "a rollout goes first", now)
    if broken is not None and not begun:
        name = broken.pod.name if broken.pod else f"the worker {broken.uid}"
        why = "has another fingerprint now" if broken.stand is Stand.OTHER else "is lost"
        return _end(plan, found, f"{name} {why}", now)
    patience = timedelta(seconds=want.drain_seconds) + LATE + VERIFY
    for donor in moving:
        if (
            donor.pod is not None
            and now >= (donor.pod.draining_since or plan.start_time) + patience
        ):
            seconds = int(patience.total_seconds())
            return _end(plan, found, f"{donor.pod.name} had {seconds} s to change its role", now)
    if now >= plan.deadline_time:
        by = f"{plan.deadline_time:%H:%M:%S}"
        return _end(plan, found, f"the new split was not reached by {by}", now)
    if not moving and want.ranged:
        if stuck := _stuck(want, seen, plan, now):
            return _end(plan, found, stuck, now)
        if not _as_wanted(want, seen):
            return Turn(plan)
    if moving:
        return Turn(plan)
    done = plan.model_copy(update={"state": PlanState.COMPLETED, "end_time": _whole(now)})
    return Turn(done, changed=True, reason=f"{plan.kind}Completed")


def _stuck(want: Desired, seen: Observed, plan: PlanStatus, now: datetime) -> str | None:
    """A sentence where a worker that the plan adds finds no place for too long."""
    patience = timedelta(seconds=want.pending_deadline_seconds)
    for pod in seen.pods:
        if pod.scheduled or pod.deleting or pod.phase != "Pending":
            continue
        if pod.created_at >= plan.start_time and now - pod.created_at >= patience:
            return f"{pod.name} finds no node: {pod.unschedulable or 'it is not scheduled'}"
    if seen.refused is not None and now - plan.start_time >= patience:
        return f"a worker is not admitted: {seen.refused}"
    return None


def _as_wanted(want: Desired, seen: Observed) -> bool:
    if any(is_draining(pod) or pod.deleting for pod in seen.pods):
        return False
    return all(len(serving(seen, role)) == want.replicas(role) for role in OTHER)


def _end(plan: PlanStatus, found: Sequence[Donor], why: str, now: datetime) -> Turn:
    """Roll back; what has reached its new role stays there, the rest is as it was before."""
    done = sum(1 for donor in found if donor.stand is Stand.DONE)
    sign = 1 if new_role(plan) is Role.PREFILL else -1
    achieved = Workers(
        prefill=plan.source.prefill + sign * done, decode=plan.source.decode - sign * done
    )
    over = plan.model_copy(
        update={
            "state": PlanState.ROLLED_BACK,
            "message": why[:1000],
            "target": achieved,
            "end_time": _whole(now),
        }
    )
    return Turn(over, changed=True, reason=f"{plan.kind}RolledBack")


def _target(want: Desired) -> Workers:
    return Workers(prefill=want.prefill, decode=want.decode)


def _source(
    want: Desired, seen: Observed, moving: Sequence[tuple[Pod, Role]], now: datetime
) -> Workers:
    """What was asked for before; what there is, where that does not tell who moves where."""
    there = Workers(
        prefill=len(counting(seen, Role.PREFILL, now)),
        decode=len(counting(seen, Role.DECODE, now)),
    )
    asked = want.recorded
    if asked is None:
        return there
    to_prefill = asked.prefill < want.prefill
    return asked if not moving or to_prefill == (moving[0][1] is Role.PREFILL) else there


def _whole(now: datetime) -> datetime:
    return now.replace(microsecond=0)

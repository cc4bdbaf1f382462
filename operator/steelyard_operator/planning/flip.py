"""Workers that change their role in their pod: where each one stands, and its next step.

The order is: label off, drain, POST /role, verify by GET /state, label on. Every step is read off
the pod and off what the worker says, so any operator can go on from any of them. A worker without
an admin port serves any role at any time; there the labels alone are changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto

from steelyard_operator.api.names import Role
from steelyard_operator.api.plan_status import PlanKind, PlanState, PlanStatus
from steelyard_operator.planning.actions import (
    Action,
    LabelPod,
    RequestDrain,
    SetRole,
    StartDrain,
)
from steelyard_operator.planning.backoff import given_up
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.draining import SETTLE
from steelyard_operator.planning.observed import FINGERPRINT_DIGITS, Observed, Pod, WorkerState


class Stand(Enum):
    """How far one worker is."""

    BEFORE = auto()
    """It still has the label of its old role."""
    UNDRAINED = auto()
    """It has no label, and has not been told to drain."""
    DRAINING = auto()
    DRAINED = auto()
    CHANGED = auto()
    """It says that it is ready in the new role, with the fingerprint that it had."""
    DONE = auto()
    """It has the label of the new role, and no other."""
    OTHER = auto()
    """It is ready with another fingerprint: it pairs with nobody that it paired with before."""
    LOST = auto()
    """It is gone, is being deleted, or will not run again."""


MOVING = (Stand.UNDRAINED, Stand.DRAINING, Stand.DRAINED, Stand.CHANGED)


@dataclass(frozen=True, slots=True)
class Donor:
    """One worker that changes its role."""

    uid: str
    stand: Stand
    pod: Pod | None = None


def new_role(plan: PlanStatus) -> Role:
    """Return the role that a plan's workers change to."""
    return Role.PREFILL if plan.target.prefill > plan.source.prefill else Role.DECODE


def donors(plan: PlanStatus | None, seen: Observed, now: datetime) -> list[Donor]:
    """Return where the workers of a running flip stand; none where there is no such plan."""
    if plan is None or plan.kind is not PlanKind.FLIP or plan.state is not PlanState.RUNNING:
        return []
    pods = {pod.uid: pod for pod in seen.pods}
    role = new_role(plan)
    found = []
    for uid in plan.pods:
        pod = pods.get(uid)
        stand = _stand(pod, seen.states.get(uid), role, now) if pod else Stand.LOST
        found.append(Donor(uid, stand, pod))
    return found


def steps(
    plan: PlanStatus | None, want: Desired, seen: Observed, now: datetime
) -> Iterator[Action]:
    """Yield the next step of each worker of a running flip."""
    for donor in donors(plan, seen, now):
        if plan is not None and donor.pod is not None:
            yield from _step(donor.pod, donor.stand, new_role(plan), want, now)


def in_new_roles(plan: PlanStatus | None, seen: Observed, now: datetime) -> Observed:
    """Return the facts as all other planning should see them.

    A worker on its way fills a place of its new role and serves nobody, so that nobody else is
    made, resumed or deleted in its place.
    """
    moving = {d.uid for d in donors(plan, seen, now) if d.stand in (Stand.BEFORE, *MOVING)}
    if plan is None or not moving:
        return seen
    roles = frozenset((new_role(plan),))
    pods = (
        replace(pod, roles=roles, draining_since=None, ready=False) if pod.uid in moving else pod
        for pod in seen.pods
    )
    return replace(seen, pods=tuple(pods))


def _stand(pod: Pod, state: WorkerState | None, role: Role, now: datetime) -> Stand:
    if pod.deleting or pod.phase != "Running" or given_up(pod, now):
        return Stand.LOST
    if role in pod.roles:
        return Stand.DONE
    if pod.roles:
        return Stand.BEFORE
    if state is None:
        return Stand.DRAINING  # it may be asked again, until the plan's deadline
    if state.role is None:
        settled = pod.draining_since is None or now >= pod.draining_since + SETTLE
        return Stand.CHANGED if settled and state.in_flight == 0 else Stand.DRAINING
    if state.phase == "drained":
        return Stand.DRAINED
    if state.phase != "ready":
        return Stand.LOST if state.phase == "failed" else Stand.DRAINING
    if state.role is not role:
        return Stand.UNDRAINED
    same = pod.fingerprint in (None, state.fingerprint[:FINGERPRINT_DIGITS])
    return Stand.CHANGED if same else Stand.OTHER


def _step(pod: Pod, stand: Stand, role: Role, want: Desired, now: datetime) -> Iterator[Action]:
    match stand:
        case Stand.BEFORE:
            note = f"{pod.name} finishes its requests and becomes a {role.wire} worker"
            yield StartDrain(pod, "Flipping", note)
        case Stand.UNDRAINED:
            since = pod.draining_since or now
            left = since + timedelta(seconds=want.drain_seconds) - now
            yield RequestDrain(pod, deadline_seconds=max(1, int(left.total_seconds())))
        case Stand.DRAINED:
            yield SetRole(pod, role)
        case Stand.CHANGED:
            yield LabelPod(pod, role, "Flipped", f"{pod.name} serves {role.wire} now")
        case _:
            return

"""What to do about one service now: `plan(want, seen, now)`, pure and level-triggered.

Calling it again with the same facts gives the same plan; progress is read off the pods. Which
worker goes first is `removal`'s, which revision a new one has is `rollout`'s.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from steelyard_operator.api.names import Role
from steelyard_operator.api.plan_status import PlanStatus
from steelyard_operator.planning.actions import (
    Action,
    CreatePod,
    DeletePod,
    DeleteRevision,
    LabelFingerprint,
    Plan,
    Resume,
    StartDrain,
)
from steelyard_operator.planning.backoff import (
    KEPT_FAILED_PODS,
    failed,
    given_up,
    last_failure,
    replace_at,
)
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.draining import drain_steps, is_draining
from steelyard_operator.planning.flip import MOVING, Stand, donors, in_new_roles, steps
from steelyard_operator.planning.observed import FINGERPRINT_DIGITS, Observed, Pod
from steelyard_operator.planning.removal import victims
from steelyard_operator.planning.resuming import resumes
from steelyard_operator.planning.rollout import creations
from steelyard_operator.planning.slots import free_slots
from steelyard_operator.planning.trouble import rolling

ROLES = (Role.DECODE, Role.PREFILL)  # decode first: it serves alone where prefill is missing
DRAIN_POLL_SECONDS, START_POLL_SECONDS, FLIP_POLL_SECONDS = 1.0, 3.0, 0.25
KEPT_REVISIONS = 5
CREATIONS_IN_A_PASS = 64
"""Pods that one pass makes at most: 8 at a time at some 20 ms each keep a pass far below a second,
and the next pass goes on. A service may ask for thousands."""


def plan(want: Desired, seen: Observed, now: datetime, running: PlanStatus | None = None) -> Plan:
    """Return what brings the service nearer to what is wanted.

    Args:
        want: the target.
        seen: the facts.
        now: the time, on the clock of the API server's timestamps.
        running: the plan in force (`transaction.advance`); workers of a flip are its alone.
    """
    if want.suspended:
        return Plan(min_available=_min_available(seen, ()))
    if want.deleting:
        serve = [pod for pod in seen.pods if pod.roles and not pod.deleting]
        starts = [StartDrain(p, "Deleting", f"{p.name} finishes its requests") for p in serve]
        steps = (*starts, *drain_steps(want, seen, now))
        return Plan(steps, look_again_after_seconds=DRAIN_POLL_SECONDS if seen.pods else None)
    flips, moving, seen = _flips(want, seen, now, running)
    actions: list[Action] = [*flips, *_fingerprints(seen, moving)]
    resumed = list(resumes(want, seen))
    taken_back = {action.pod.uid for action in resumed}
    actions += resumed
    actions += [s for s in drain_steps(want, seen, now) if s.pod.uid not in taken_back]  # type: ignore[union-attr]  # every step of a drain has a pod
    actions += _failed_pods(want, seen, now)
    actions += _creations(want, seen, now, resumed)
    leaving: list[Pod] = []
    if not moving or rolling(want, seen):
        # Flips come first; only a rollout does not wait for them.
        stuck = _blocked(want, seen)
        leaving = [v for role in ROLES for v in victims(role, want, seen, blocked=role is stuck)]
        leaving = [victim for victim in leaving if victim.uid not in moving]
    actions += [_removal(victim, want) for victim in leaving]
    actions += _old_revisions(want, seen)
    return Plan(
        tuple(actions),
        min_available=_min_available(seen, leaving),
        look_again_after_seconds=FLIP_POLL_SECONDS if moving else _look_again(want, seen, now),
    )


def only_finish(
    want: Desired, seen: Observed, now: datetime, running: PlanStatus | None = None
) -> Plan:
    """Return what goes on for a resource that this version cannot serve as it is written.

    As with a rollout that does not start, workers that serve go on serving and nothing new is made;
    workers that drain already finish and go, and those that change their role do so.
    """
    flips, moving, seen = _flips(want, seen, now, running)
    return Plan(
        (*flips, *drain_steps(want, seen, now)),
        min_available=_min_available(seen, ()),
        look_again_after_seconds=FLIP_POLL_SECONDS if moving else _look_again(want, seen, now),
    )


def _flips(
    want: Desired, seen: Observed, now: datetime, running: PlanStatus | None
) -> tuple[list[Action], set[str], Observed]:
    """Return a flip's next steps, the uids on their way, and the facts for everything else."""
    on_their_way = (Stand.BEFORE, *MOVING)
    moving = {d.uid for d in donors(running, seen, now) if d.stand in on_their_way}
    return list(steps(running, want, seen, now)), moving, in_new_roles(running, seen, now)


def serving(seen: Observed, role: Role) -> list[Pod]:
    """Return the pods that take requests for a role."""
    return [p for p in seen.pods if role in p.roles and p.ready and not p.deleting]


def counting(seen: Observed, role: Role, now: datetime) -> list[Pod]:
    """Return the pods that fill a place of a role: neither gone, nor given up."""
    return [p for p in seen.pods if role in p.roles and not p.deleting and not given_up(p, now)]


def _creations(
    want: Desired, seen: Observed, now: datetime, resumed: list[Resume]
) -> Iterator[Action]:
    free = free_slots(want, seen)
    asked: dict[Role, list[tuple[str, str]]] = {}
    attempt: dict[Role, int] = {}
    for role in ROLES:
        failure = last_failure([p for p in seen.pods if role in p.roles], now)
        if failure is not None and now < (replace_at(failure) or now):
            continue
        crashing = [p for p in seen.pods if role in p.roles and not failed(p) and given_up(p, now)]
        attempts = [p.attempt + 1 for p in (*crashing, *([failure] if failure else []))]
        attempt[role] = max(attempts, default=0)
        back = sum(1 for action in resumed if action.role is role)
        found = creations(role, want, seen, counting(seen, role, now), back)
        asked[role] = list(islice(found, CREATIONS_IN_A_PASS))
    for role, those in asked.items():
        # Where they are more than a pass makes, no role waits for the whole of the other.
        others = sum(len(each) for other, each in asked.items() if other is not role)
        most = CREATIONS_IN_A_PASS - min(others, CREATIONS_IN_A_PASS // 2)
        for revision, reason in those[:most]:
            slot = next(free, None)
            if slot is None:
                return
            name = f"slot {slot}"
            yield CreatePod(
                slot=slot,
                role=role,
                revision=revision,
                attempt=attempt[role],
                reason=reason,
                message=f"made a {role.wire} worker in {name}, revision {revision}",
            )


def _failed_pods(want: Desired, seen: Observed, now: datetime) -> Iterator[DeletePod]:
    """Failed pods stay for their logs, a few, as long as nobody needs their slot."""
    ended = sorted(
        (p for p in seen.pods if failed(p)),
        key=lambda p: p.finished_at or p.created_at,
        reverse=True,
    )
    no_slot = next(free_slots(want, seen), None) is None
    for place, pod in enumerate(ended):
        due = now >= (replace_at(pod) or now)
        if place >= KEPT_FAILED_PODS or (no_slot and due):
            yield DeletePod(pod, "FailedPodDeleted", f"deleted {pod.name}: it had failed")
    for pod in seen.pods:
        if not failed(pod) and not pod.deleting and given_up(pod, now):
            why = pod.failure_message or pod.waiting_message or "its container keeps ending"
            yield DeletePod(pod, "CrashLooping", f"replaced {pod.name}: {why}")


def _blocked(want: Desired, seen: Observed) -> Role | None:
    """Return the role whose rollout waits for a slot that only an old worker can give.

    With `maxUnavailable` 0 a rollout inside a full budget would wait for ever. So one worker at a
    time goes first, once all new ones are ready; requests wait in the router where it was the
    only one.
    """
    leaving = any(pod.deleting or is_draining(pod) for pod in seen.pods)
    full = next(free_slots(want, seen), None) is None
    if leaving or not full or want.paused:
        return None
    for role in ROLES:
        pods = [pod for pod in seen.pods if role in pod.roles]
        new = [pod for pod in pods if pod.revision == want.revision(role)]
        if not all(pod.ready for pod in new):
            return None
        if len(new) < len(pods):
            return role
    return None


def _removal(pod: Pod, want: Desired) -> Action:
    role = next(iter(sorted(pod.roles)), Role.DECODE)
    replaced = pod.revision != want.revision(role)
    reason = "Replacing" if replaced else "ScalingDown"
    if pod.phase != "Running" or not pod.scheduled:
        return DeletePod(pod, reason, f"deleted {pod.name}: it had not begun to serve")
    return StartDrain(pod, reason, f"{pod.name} finishes its requests")


def _fingerprints(seen: Observed, moving: set[str]) -> Iterator[LabelFingerprint]:
    for pod in seen.pods:
        if pod.uid in moving:
            continue  # what it was before is compared with what it is afterwards
        state = seen.states.get(pod.uid)
        digits = state.fingerprint[:FINGERPRINT_DIGITS] if state else ""
        if digits and digits != pod.fingerprint and not pod.deleting:
            yield LabelFingerprint(pod, digits)


def _old_revisions(want: Desired, seen: Observed) -> Iterator[DeleteRevision]:
    used = {pod.revision for pod in seen.pods} | {want.prefill_revision, want.decode_revision}
    newest_first = sorted(seen.revisions, key=lambda revision: revision.number, reverse=True)
    for revision in newest_first[KEPT_REVISIONS:]:
        if revision.hash not in used:
            yield DeleteRevision(revision.name)


def _min_available(seen: Observed, leaving: list[Pod] | tuple[Pod, ...]) -> int:
    gone = {pod.uid for pod in leaving}
    serve = [p for p in seen.pods if p.roles and p.ready and not p.deleting and p.uid not in gone]
    return max(0, len(serve) - 1)


def _look_again(want: Desired, seen: Observed, now: datetime) -> float | None:
    waits: list[float] = []
    if any(is_draining(pod) for pod in seen.pods):
        waits.append(DRAIN_POLL_SECONDS)
    for pod in seen.pods:
        at = replace_at(pod)
        if at is not None and at > now:
            waits.append((at - now).total_seconds())
        starting = pod.phase == "Running" and not pod.ready and not pod.deleting
        if starting or (pod.ready and pod.roles and pod.fingerprint is None):
            waits.append(START_POLL_SECONDS)
        if pod.unschedulable is not None:
            waits.append(float(want.pending_deadline_seconds))
    return min(waits, default=None)

"""Drained workers that serve again: quicker than any new one.

They are taken back into the role that they have, or, where workers may change their role, into the
one that misses them. This is also how a flip that is rolled back gives its workers back.
"""

from collections.abc import Iterator

from steelyard_operator.api.names import Role
from steelyard_operator.planning.actions import Resume
from steelyard_operator.planning.backoff import failing
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.draining import is_draining
from steelyard_operator.planning.observed import Observed, Pod, WorkerState

ROLES = (Role.DECODE, Role.PREFILL)
TOLD_TO_DRAIN = ("draining", "drained")


def resumes(want: Desired, seen: Observed) -> Iterator[Resume]:
    """Yield the workers to take back."""
    yield from _labelled(seen)
    missing = {
        role: want.replicas(role)
        - sum(1 for p in seen.pods if role in p.roles and not p.deleting and not failing(p))
        for role in ROLES
    }
    usable = [
        (pod, state)
        for pod in seen.pods
        if (state := seen.states.get(pod.uid)) is not None and _is_usable(pod, state)
    ]
    taken: set[str] = set()
    for same in (True, False):
        for role in ROLES:
            for pod, state in usable:
                fits = state.role is role if same else want.flip and state.phase == "drained"
                current = pod.revision == want.revision(role)
                if missing[role] > 0 and fits and current and pod.uid not in taken:
                    missing[role] -= 1
                    taken.add(pod.uid)
                    again = " again" if same else ""
                    yield Resume(pod, role, "Resumed", f"{pod.name} serves {role.wire}{again}")


def _labelled(seen: Observed) -> Iterator[Resume]:
    """A worker that drains although its label says that it serves: the order came too late."""
    for pod in seen.pods:
        state = seen.states.get(pod.uid)
        if state is None or pod.deleting or len(pod.roles) != 1 or pod.phase != "Running":
            continue
        (role,) = pod.roles
        if state.phase in TOLD_TO_DRAIN and state.role is role:
            yield Resume(pod, role, "Resumed", f"{pod.name} serves {role.wire} again")


def _is_usable(pod: Pod, state: WorkerState) -> bool:
    # A drained worker says that it is not ready, which is no fault.
    return (
        is_draining(pod)
        and state.role is not None
        and (pod.ready or (state.phase in TOLD_TO_DRAIN and pod.phase == "Running"))
    )

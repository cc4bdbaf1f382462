"""Workers that carry no role label finish what they have, and are then deleted or taken back.

Every step follows from what is observed: the label is off, the annotation says since when, the
worker itself says what is left.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from steelyard_operator.api.names import Role
from steelyard_operator.planning.actions import Action, DeletePod, RequestDrain
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed, Pod

SETTLE = timedelta(seconds=3)
"""Routers learn of a removed label a moment later; a count of zero before then may rise again."""

LATE = timedelta(seconds=5)
"""A worker ends its own drain at the deadline; one that does not is deleted this much later."""

DELETED_PHASES = ("drained", "failed")


def is_draining(pod: Pod) -> bool:
    """Whether a pod was taken out of its role and still lives."""
    return not pod.deleting and not pod.roles


def drain_steps(want: Desired, seen: Observed, now: datetime) -> Iterable[Action]:
    """Yield the next step of each worker that drains."""
    for pod in seen.pods:
        if is_draining(pod):
            yield from _step(pod, want, seen, now)


def _step(pod: Pod, want: Desired, seen: Observed, now: datetime) -> Iterable[Action]:
    since = pod.draining_since or pod.created_at
    deadline = since + timedelta(seconds=want.drain_seconds)
    state = seen.states.get(pod.uid)
    if pod.phase != "Running" or (not pod.ready and state is None and pod.restarts > 0):
        yield _delete(pod, want, "it serves nothing any more")
    elif now >= deadline + LATE:
        yield _delete(pod, want, f"it had {want.drain_seconds} s to finish")
    elif state is None:
        return
    elif state.phase in DELETED_PHASES:
        yield _delete(pod, want, "it has finished its requests")
    elif state.phase in ("loading", "warmup"):
        yield _delete(pod, want, "it had not begun to serve")
    elif state.phase == "ready" and state.role is not None:
        left = (deadline - now).total_seconds()
        yield RequestDrain(pod, deadline_seconds=max(1, int(left)))
    elif state.in_flight == 0 and state.role is None and now >= since + SETTLE:
        # An engine without an admin port says only how many requests it has.
        yield _delete(pod, want, "it has finished its requests")


def _delete(pod: Pod, want: Desired, why: str) -> DeletePod:
    current = pod.revision in (want.revision(Role.PREFILL), want.revision(Role.DECODE))
    reason = "ScaledDown" if current else "Replaced"
    return DeletePod(pod, reason, f"deleted {pod.name}: {why}")

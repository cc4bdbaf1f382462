"""What keeps a service from being as it was asked for: states with a reason, never a hang.

`stalled` troubles need a person to edit something; the others may pass by themselves (kstatus).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from steelyard_operator.api.names import Role
from steelyard_operator.api.optimisations import CompressionSpec
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning import reasons
from steelyard_operator.planning.backoff import IMAGE_REASONS, failing
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed, Pod


@dataclass(frozen=True, slots=True)
class Trouble:
    """One obstacle."""

    reason: str
    message: str
    stalled: bool = False


def unsupported(service: InferenceService, backend: str | None) -> str | None:
    """Return a sentence where this version cannot serve what is asked for.

    Args:
        service: the resource.
        backend: what the backend itself says (`backends.registry.unsupported`).
    """
    if service.spec.compression != CompressionSpec():
        return "`spec.compression` is not served by this version; remove it"
    return backend


def troubles(
    want: Desired, seen: Observed, now: datetime, *, refusal: str | None
) -> Iterator[Trouble]:
    """Yield what stands in the way, the gravest first."""
    if refusal is not None:
        yield Trouble(reasons.NOT_SUPPORTED, refusal, stalled=True)
    for sentence in seen.foreign:
        yield Trouble(reasons.FOREIGN, sentence, stalled=True)
    asked = want.prefill + want.decode
    if want.slots is not None and asked > want.slots:
        yield Trouble(
            reasons.TOO_SMALL,
            f"{asked} workers are asked for and `capacity.maxAccelerators` holds {want.slots}; "
            "raise it or ask for fewer",
            stalled=True,
        )
    if deadline_passed(want, seen, now):
        yield Trouble(
            reasons.DEADLINE,
            f"the rollout made no progress for {want.progress_deadline_seconds} s"
            f"{_why(seen)}; change the template, or go back to the old one",
            stalled=True,
        )
    yield from _hindrances(seen)
    for pod in seen.pods:
        if pod.deleting or pod.ready:
            continue
        if pod.unschedulable is not None:
            yield Trouble(reasons.UNSCHEDULABLE, f"{pod.name} finds no node: {pod.unschedulable}")
        elif pod.waiting_reason in IMAGE_REASONS:
            yield Trouble(reasons.IMAGE_PULL, f"{pod.name}: {_said(pod)}")
        elif failing(pod):
            yield Trouble(reasons.CRASH_LOOP, f"{pod.name}: {_said(pod)}")


def _hindrances(seen: Observed) -> Iterator[Trouble]:
    """Yield what may pass by itself and is no pod's own."""
    if seen.refused is not None:
        yield Trouble(reasons.QUOTA, f"a pod was not admitted: {seen.refused}")
    if seen.refused_object is not None:
        yield Trouble(reasons.QUOTA, f"an object was not admitted: {seen.refused_object}")
    if seen.internal is not None:
        yield Trouble(reasons.INTERNAL, f"its balance could not be found: {seen.internal}")
    if seen.queued:
        yield Trouble(
            reasons.QUEUED,
            "more pods are made as those of this namespace that are in creation become ready",
        )


def rolling(want: Desired, seen: Observed) -> list[Pod]:
    """Return the pods that another revision is to replace."""
    return [
        pod
        for pod in seen.pods
        if pod.roles and not pod.deleting and pod.revision not in _current(want, pod)
    ]


def deadline_passed(want: Desired, seen: Observed, now: datetime) -> bool:
    """Whether a rollout stands still for too long: no pod of it was made or became ready since."""
    if want.paused or not rolling(want, seen):
        return False
    new = [p for p in seen.pods if p.roles and p.revision in _current(want, p)]
    moments = [moment for p in new for moment in (p.created_at, p.ready_changed_at) if moment]
    if not moments or all(pod.ready for pod in new):
        return False
    return now - max(moments) > timedelta(seconds=want.progress_deadline_seconds)


def _current(want: Desired, pod: Pod) -> set[str]:
    return {want.revision(role) for role in pod.roles} or {
        want.revision(Role.PREFILL),
        want.revision(Role.DECODE),
    }


def _why(seen: Observed) -> str:
    bad = next((pod for pod in seen.pods if failing(pod)), None)
    return f" ({bad.name}: {_said(bad)})" if bad else ""


def _said(pod: Pod) -> str:
    said = pod.failure_message or pod.waiting_message or pod.waiting_reason or pod.phase
    return said[:500]

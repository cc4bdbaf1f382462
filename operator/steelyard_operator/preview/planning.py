"""`steelyard plan FILE`: what the operator would do next, and what it would change. Pure.

The operator's own planner decides; the first step is shown, because later ones depend on how pods
fare. In-flight requests are not asked for, so the worker that a scale-down or a flip chooses may be
another.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from steelyard_operator.api.load import read_status
from steelyard_operator.api.names import TEMPLATE_ANNOTATION, Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import Flip
from steelyard_operator.backends.registry import backend
from steelyard_operator.planning.actions import Action, CreatePod, DeleteRevision, Plan
from steelyard_operator.planning.deciding import decide
from steelyard_operator.planning.observed import Observed, WorkerState
from steelyard_operator.preview.differences import both_ways, differences
from steelyard_operator.preview.situation import Situation
from steelyard_operator.render.children import children
from steelyard_operator.render.everything import UNKNOWN_UID
from steelyard_operator.render.names import pod_name
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.revision import inputs, revision_hash
from steelyard_operator.settings import Settings

NOTHING = "  nothing"


def preview(
    service: InferenceService, situation: Situation, settings: Settings, now: datetime
) -> list[str]:
    """Return the lines that `steelyard plan` prints."""
    meta = service.metadata
    the_plan = next_step(service, situation, now)
    lines = [f"{meta.name} in namespace {meta.namespace}", "", "pods:"]
    lines += [_action(meta.name, action) for action in the_plan.actions] or [NOTHING]
    known = {revision.hash for revision in situation.seen.revisions}
    hashes = {revision_hash(service, role): role for role in (Role.DECODE, Role.PREFILL)}
    new = {hash: role for hash, role in hashes.items() if hash not in known}
    if new:
        lines += ["", "revisions:"]
    for hash, role in new.items():
        lines.append(f"  + {hash}")
        if situation.made_from:
            changed = both_ways(inputs(service, role), situation.made_from)
            lines += [f"      {line}" for line in changed]
    lines += ["", "objects:"]
    return lines + (list(_objects(service, situation, settings, the_plan)) or [NOTHING])


def next_step(service: InferenceService, situation: Situation, now: datetime) -> Plan:
    """Return what the operator's planner says to what there is."""
    seen = situation.seen
    if situation.resource is not None:
        seen = replace(seen, states=_as_if_asked(seen))
    return decide(
        service,
        read_status(situation.resource) if situation.resource else None,
        seen,
        revisions={role: revision_hash(service, role) for role in (Role.PREFILL, Role.DECODE)},
        served=True,
        deleting=False,
        can_flip=backend(service.spec.runtime.backend).flip is not Flip.NONE,
        now=now,
        epoch=0,
    ).plan


def _as_if_asked(seen: Observed) -> dict[str, WorkerState]:
    """What ready workers would say: nothing in flight, in the role of their label."""
    return {
        pod.uid: WorkerState("ready", 0, next(iter(pod.roles)))
        for pod in seen.pods
        if pod.ready and len(pod.roles) == 1
    }


def _objects(
    service: InferenceService, situation: Situation, settings: Settings, the_plan: Plan
) -> Iterator[str]:
    uid = situation.resource["metadata"]["uid"] if situation.resource else UNKNOWN_UID
    owner = Owner(service.metadata.name, service.metadata.namespace, uid)
    rendered = children(
        owner,
        service,
        settings,
        min_available=the_plan.min_available,
        router=situation.objects.get(("Deployment", f"{owner.name}-router")),
    )
    wanted = set()
    for one in rendered:
        kind, name = one["kind"], one["metadata"]["name"]
        wanted.add((kind, name))
        found = situation.objects.get((kind, name))
        if found is None:
            yield f"  + {kind} {name}"
            continue
        lines = list(differences(_without_template(one), found))
        if lines:
            yield f"  ~ {kind} {name}"
            yield from (f"      {line}" for line in lines)
    for kind, name in situation.objects.keys() - wanted:
        yield f"  - {kind} {name}"


def _without_template(one: dict[str, Any]) -> dict[str, Any]:
    """The annotation repeats what stands in the object's own template."""
    annotations = dict(one["metadata"].get("annotations") or {})
    annotations.pop(TEMPLATE_ANNOTATION, None)
    return {**one, "metadata": {**one["metadata"], "annotations": annotations}}


def _action(service: str, action: Action) -> str:
    if isinstance(action, CreatePod):
        made = f"{pod_name(service, action.slot)}, {action.role.value}, revision {action.revision}"
        return f"  + {made}: {action.message}"
    if isinstance(action, DeleteRevision):
        return f"  - ControllerRevision {action.name}"
    words = type(action).__name__
    return f"  ~ {action.pod.name} {words}: {getattr(action, 'message', '')}".rstrip(": ")

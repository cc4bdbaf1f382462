"""One worker's pod: a template with a name, a slot, a start role and a revision.

Pods are created and deleted, never applied: an apply would take away what changes later.
"""

import copy
from collections.abc import Mapping
from typing import Any

from steelyard_operator.api.names import ATTEMPT_ANNOTATION, REVISION_LABEL, Role
from steelyard_operator.render.fetching import guard_pod
from steelyard_operator.render.labels import role_labels
from steelyard_operator.render.names import pod_name, token_secret_name
from steelyard_operator.render.own_secrets import refuse_own_secrets_in
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.volumes import with_token
from steelyard_operator.render.worker_key import with_worker_key
from steelyard_operator.settings import Settings


def worker_pod(
    owner: Owner,
    template: Mapping[str, Any],
    *,
    slot: int,
    role: Role,
    revision: str,
    attempt: int,
    settings: Settings,
    worker_key: str | None = None,
) -> dict[str, Any]:
    """Return the pod of a budget slot.

    Args:
        owner: the resource.
        template: of its revision, as it was rendered or as a ControllerRevision keeps it.
        slot: the number at the end of its name.
        role: what it serves at first.
        revision: the hash of the template.
        attempt: how many pods failed in this slot before it.
        settings: the operator's of now, which what fetches the checkpoint is held to.
        worker_key: the Secret whose key its serving port asks for; None leaves the port open.

    Raises:
        UserError: the template names a Secret of the operator.
    """
    meta = template["metadata"]
    refuse_own_secrets_in(template["spec"], settings)
    spec = copy.deepcopy(template["spec"])
    if "volumes" in spec:
        # A template outlives its service: what an orphan was made from names no token of ours.
        spec["volumes"] = with_token(spec["volumes"], token_secret_name(owner.name, owner.uid))
    guard_pod(spec, settings)
    if worker_key is not None:
        spec = with_worker_key(spec, worker_key)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(owner.name, slot),
            "namespace": owner.namespace,
            "labels": {**meta["labels"], REVISION_LABEL: revision, **role_labels(role)},
            "annotations": {**meta.get("annotations", {}), ATTEMPT_ANNOTATION: str(attempt)},
            "ownerReferences": [owner.reference()],
        },
        "spec": spec,
    }

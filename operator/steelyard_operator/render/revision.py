"""Which inputs make a new revision of the workers, and how a revision is kept.

The list is explicit: what is not in it never replaces a worker. An operator of another version or
with other settings renders other templates and restarts nothing; pods that are replaced later get
the template that was kept.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from steelyard_operator.api.meta import ApiModel
from steelyard_operator.api.names import (
    REVISION_LABEL,
    SEAL_ANNOTATION,
    SERVICE_LABEL,
    WORKER,
    Role,
)
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.render.labels import metadata
from steelyard_operator.render.names import revision_name
from steelyard_operator.render.owner import Owner

HASH_DIGITS = 10

MODEL = {"uri", "served_name", "max_model_len", "credentials_secret_ref"}
RUNTIME = {"backend", "image", "extra_args", "env"}
ROLE = {"resources", "tensor_parallel", "pod_template", "priority_class_name"}
ROLLOUT = {"drain_seconds", "restarted_at"}
ROUTER = {"api_keys_secret_ref"}


def inputs(service: InferenceService, role: Role) -> dict[str, Any]:
    """Return what a worker of a role is made from, with defaults left out.

    The API server writes defaults into what it returns, and a default may be added later: neither
    is a change.
    """
    spec = service.spec
    return _said(
        {
            "model": _chosen(spec.model, MODEL),
            "runtime": _chosen(spec.runtime, RUNTIME),
            "worker": _chosen(spec.prefill if role is Role.PREFILL else spec.decode, ROLE),
            "rollout": _chosen(spec.rollout, ROLLOUT),
        }
    )


def revision_hash(service: InferenceService, role: Role) -> str:
    """Return the hash of what a worker of a role is made from."""
    return hash_of(inputs(service, role))


def router_hash(service: InferenceService) -> str:
    """Return the hash of what the router's pods are made from."""
    spec = service.spec
    return hash_of(
        _said(
            {
                "model": {"name": spec.model.name},
                "router": _chosen(spec.router, ROUTER),
                "rollout": _chosen(spec.rollout, {"drain_seconds"}),
            }
        )
    )


def hash_of(given: Mapping[str, Any]) -> str:
    """Return a short hash of plain data; the order of keys says nothing."""
    text = json.dumps(given, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def controller_revision(
    owner: Owner,
    template: Mapping[str, Any],
    hash: str,
    number: int,
    *,
    inputs: Mapping[str, Any] | None = None,
    roles: Sequence[Role] = (Role.PREFILL, Role.DECODE),
    seal: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Return the object that keeps a template.

    Args:
        owner: the resource.
        template: what pods of the revision are made from.
        hash: the revision's hash.
        number: grows with each revision; going back gives the old one the highest.
        inputs: what the template was made from, to go back to and to compare.
        roles: whose workers it was made for.
        seal: shows that we wrote a text.
    """
    meta = metadata(owner, revision_name(owner.name, hash), WORKER)
    meta["labels"] = {**meta["labels"], REVISION_LABEL: hash}
    body: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": meta,
        "revision": number,
        "data": {
            "template": copy.deepcopy(dict(template)),
            "inputs": copy.deepcopy(dict(inputs or {})),
            "roles": [role.value for role in roles],
        },
    }
    if seal is not None:
        meta["annotations"] = {SEAL_ANNOTATION: seal(sealed_text(body))}
    return body


def sealed_text(body: Mapping[str, Any]) -> str:
    """Return what a seal is over: whose template it is, its hash, and all of its content.

    Not the number, which changes, nor the owner: an orphan is taken over with its seal.
    """
    meta = body["metadata"]
    labels = meta.get("labels") or {}
    whose = [meta["namespace"], meta["name"], labels.get(SERVICE_LABEL), labels.get(REVISION_LABEL)]
    return json.dumps([*whose, body.get("data")], sort_keys=True, separators=(",", ":"))


def is_what_it_says(body: Mapping[str, Any]) -> bool:
    """Whether a revision's hash is that of the inputs it has; the first operators kept none."""
    labels, data = body["metadata"].get("labels") or {}, body.get("data") or {}
    given = data.get("inputs")
    return not given or hash_of(given) == labels.get(REVISION_LABEL)


def _chosen(model: ApiModel, fields: set[str]) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=fields)


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """Leave out blocks that say nothing."""
    return {name: block for name, block in given.items() if block}

"""All objects of a new service, for people to read: what an empty cluster gets.

The operator itself makes pods and revisions one by one, as its plan says.
"""

from collections.abc import Iterator
from typing import Any

from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.render.children import children
from steelyard_operator.render.names import worker_key_secret_name
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.pod import worker_pod
from steelyard_operator.render.revision import controller_revision, inputs, revision_hash
from steelyard_operator.render.secret import token_secret, worker_key_secret
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings

UNKNOWN_UID = "00000000-0000-0000-0000-000000000000"
UNKNOWN_KEY = "made by the operator"  # in place of a token or a key


def everything(service: InferenceService, settings: Settings) -> tuple[dict[str, Any], ...]:
    """Return the Secrets, what is applied, the revisions, and the pods at their start."""
    owner = Owner(service.metadata.name, service.metadata.namespace, UNKNOWN_UID)
    pods = tuple(_pods(owner, service, settings))
    return (
        token_secret(owner, UNKNOWN_KEY),
        worker_key_secret(owner, UNKNOWN_KEY),
        *children(owner, service, settings, min_available=max(0, len(pods) - 1)),
        *_revisions(owner, service, settings),
        *pods,
    )


def _revisions(
    owner: Owner, service: InferenceService, settings: Settings
) -> Iterator[dict[str, Any]]:
    """One for both roles where they are alike."""
    by_hash: dict[str, list[Role]] = {}
    for role in (Role.PREFILL, Role.DECODE):
        by_hash.setdefault(revision_hash(service, role), []).append(role)
    for number, (revision, roles) in enumerate(by_hash.items(), 1):
        template = worker_template(service, settings, roles[0])
        made_from = inputs(service, roles[0])
        yield controller_revision(owner, template, revision, number, inputs=made_from, roles=roles)


def _pods(owner: Owner, service: InferenceService, settings: Settings) -> Iterator[dict[str, Any]]:
    slot = 0
    for role, workers in (
        (Role.PREFILL, service.spec.prefill),
        (Role.DECODE, service.spec.decode),
    ):
        template, revision = worker_template(service, settings, role), revision_hash(service, role)
        for _ in range(workers.start_replicas):
            yield worker_pod(
                owner,
                template,
                slot=slot,
                role=role,
                revision=revision,
                attempt=0,
                settings=settings,
                worker_key=worker_key_secret_name(owner.name, owner.uid),
            )
            slot += 1

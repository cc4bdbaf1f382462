"""Reads the revisions of a service from a cluster, and writes the patch that goes back to one."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steelyard_operator.api.load import read
from steelyard_operator.api.names import (
    COMPONENT_LABEL,
    REVISION_LABEL,
    SERVICE_LABEL,
    WORKER,
    Role,
)
from steelyard_operator.errors import UserError
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.connecting import named_service
from steelyard_operator.kube.errors import Changed
from steelyard_operator.kube.kinds import CONTROLLER_REVISION, INFERENCE_SERVICE, POD
from steelyard_operator.planning.observing import moment
from steelyard_operator.render.revision import revision_hash
from steelyard_operator.rollouts.history import ROLES, Kept, kept

# The undo's own, so that it is seen in the resource's managed fields who changed it.
MANAGER = "steelyard-rollout"


@dataclass(frozen=True, slots=True)
class Found:
    """A service and its revisions."""

    resource: Mapping[str, Any]
    current: Mapping[Role, str]
    revisions: tuple[Kept, ...]


async def find_service(client: Client, namespace: str, name: str) -> Found:
    """Return a service with its revisions.

    Raises:
        UserError: there is none of this name.
        ApiError: the API server does not answer, or does not let us read.
    """
    resource = await named_service(client, namespace, name)
    uid, mine = resource["metadata"]["uid"], f"{SERVICE_LABEL}={name}"
    stored = await client.list_controlled(CONTROLLER_REVISION, namespace, mine, uid)
    workers = f"{mine},{COMPONENT_LABEL}={WORKER}"
    pods = await client.list_controlled(POD, namespace, workers, uid)
    made = Counter(str(one["metadata"]["labels"].get(REVISION_LABEL, "")) for one in pods)
    service = read(resource)
    current = {role: revision_hash(service, role) for role in ROLES}
    return Found(
        resource,
        current,
        tuple(
            kept(one, made, moment(one["metadata"].get("creationTimestamp")), current)
            for one in stored
        ),
    )


async def write(
    client: Client, namespace: str, name: str, operations: list[dict[str, Any]]
) -> None:
    """Patch the resource.

    Raises:
        UserError: somebody changed it at the same moment.
        ApiError: the API server does not answer, or refuses.
    """
    try:
        await client.patch(INFERENCE_SERVICE, namespace, name, operations, manager=MANAGER)
    except Changed:
        raise UserError(
            f"'{name}' was changed at the same moment; look again, then repeat"
        ) from None

"""Reads what `steelyard plan` compares with from a cluster; it writes nothing."""

import asyncio
from typing import Any

from steelyard_operator.api.names import COMPONENT_LABEL, SERVICE_LABEL, WORKER
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.kube.connecting import connected
from steelyard_operator.kube.errors import NotFound
from steelyard_operator.kube.kinds import CHILDREN, CONTROLLER_REVISION, INFERENCE_SERVICE, POD
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.observing import pod_record, revision_record
from steelyard_operator.preview.situation import Situation


def observe(service: InferenceService, context: str | None) -> Situation:
    """Return what there is of a service.

    Raises:
        UserError: there is no cluster, or no such context.
        ApiError: the API server does not answer, or does not let us read.
    """
    return asyncio.run(_observe(service, context))


async def _observe(service: InferenceService, context: str | None) -> Situation:
    meta = service.metadata
    async with connected(context) as client:
        try:
            resource = await client.get(INFERENCE_SERVICE, meta.namespace, meta.name)
        except NotFound:
            return Situation()
        uid = resource["metadata"]["uid"]
        mine = f"{SERVICE_LABEL}={meta.name}"
        workers = f"{mine},{COMPONENT_LABEL}={WORKER}"
        pods = await client.list_controlled(POD, meta.namespace, workers, uid)
        revisions = await client.list_controlled(CONTROLLER_REVISION, meta.namespace, mine, uid)
        objects: dict[tuple[str, str], dict[str, Any]] = {}
        for kind in CHILDREN:
            try:
                found = await client.list_controlled(kind, meta.namespace, mine, uid)
            except NotFound:  # The cluster has no Gateway API.
                continue
            objects |= {(kind.kind, one["metadata"]["name"]): one for one in found}
    newest = max(revisions, key=lambda one: int(one["revision"]), default=None)
    seen = Observed(
        pods=tuple(pod_record(one) for one in pods),
        revisions=tuple(revision_record(one) for one in revisions),
    )
    made_from = newest["data"].get("inputs", {}) if newest else {}
    return Situation(resource, seen, _with_kind(objects), made_from)


def _with_kind(
    objects: dict[tuple[str, str], dict[str, Any]],
) -> dict[tuple[str, str], dict[str, Any]]:
    """Objects of a list do not say what they are; those that are rendered do."""
    versions = {kind.kind: kind.api_version for kind in CHILDREN}
    return {
        (kind, name): {"apiVersion": versions[kind], "kind": kind, **one}
        for (kind, name), one in objects.items()
    }

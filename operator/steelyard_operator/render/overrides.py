"""What a service may not say about its workers' pods, of what `podTemplate` has fields for.

Whoever may create pods may say all of this; admission asks for that right. Refused is what is ours,
what is the cluster's, and what the administrator lists: injectors act on annotations with rights of
their own.
"""

from collections.abc import Iterator

from steelyard_operator.api.names import GROUP
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.settings import Settings

OWN_PREFIX = f"{GROUP}/"
# Kubernetes' own classes for what a cluster cannot be without: their pods push out all others.
CLUSTER_PRIORITY = "system-"


def refused_override(service: InferenceService, settings: Settings) -> str | None:
    """Say in one sentence what a service must not say about its pods, if it does."""
    return next(_refused(service, settings), None)


def _refused(service: InferenceService, settings: Settings) -> Iterator[str]:
    for role, workers in (("prefill", service.spec.prefill), ("decode", service.spec.decode)):
        metadata = workers.pod_template.metadata
        for kind, names in (("labels", metadata.labels), ("annotations", metadata.annotations)):
            where = f"`spec.{role}.podTemplate.metadata.{kind}`"
            for name in names:
                said = f"{where} must not have '{name[:80]}'"
                if name.startswith(OWN_PREFIX):
                    yield f"{said}: names of {GROUP} are the operator's"
                elif any(name.startswith(denied) for denied in settings.denied_pod_metadata):
                    setting = "the operator's setting STEELYARD_DENIED_POD_METADATA"
                    yield f"{said}, which {setting} lists"
        if (priority := workers.priority_class_name or "").startswith(CLUSTER_PRIORITY):
            yield (
                f"`spec.{role}.priorityClassName` must not be one of the cluster's own, "
                f"got '{priority[:80]}'"
            )

"""What a service may add to its workers' pods: a list of allowed fields. Data only.

Every other field of a pod is the operator's. Lists of containers are merged by name.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from steelyard_operator.api.maxima import MOST_TEXT, PositiveReplicas
from steelyard_operator.api.meta import (
    ATOMIC,
    ApiModel,
    EnvironmentVariable,
    Names,
    ObjectName,
    StringMap,
    keyed_by,
    rules,
)


class TolerationOperator(StrEnum):
    """How a toleration compares values."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class WhenUnsatisfiable(StrEnum):
    """What the scheduler does where pods cannot be spread."""

    DO_NOT_SCHEDULE = "DoNotSchedule"
    SCHEDULE_ANYWAY = "ScheduleAnyway"


class Toleration(ApiModel):
    """One taint that the pods accept."""

    key: Annotated[str, Field(max_length=317)] = ""
    """key of the taint; all taints where it is empty."""

    operator: TolerationOperator = TolerationOperator.EQUAL
    """operator is Equal or Exists."""

    value: Annotated[str, Field(max_length=63)] = ""
    """value of the taint."""

    effect: TaintEffect | None = None
    """effect of the taint; all effects where it is not given."""


class TopologySpreadConstraint(ApiModel):
    """One way to spread a service's workers; the operator adds their labels."""

    max_skew: PositiveReplicas = 1
    """maxSkew is the largest difference in workers between two topologies."""

    topology_key: Annotated[str, Field(min_length=1, max_length=317)]
    """topologyKey is the node label that names a topology, as in kubernetes.io/hostname."""

    when_unsatisfiable: WhenUnsatisfiable = WhenUnsatisfiable.SCHEDULE_ANYWAY
    """whenUnsatisfiable says whether a pod waits that cannot be spread."""


class ImagePullSecret(ApiModel):
    """A Secret that opens the registry of the images."""

    name: Annotated[ObjectName, Names.SECRET]
    """name of the Secret."""


class ContainerOverride(ApiModel):
    """What is added to the container of this name."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """name of the container."""

    env: Annotated[
        list[EnvironmentVariable], Field(max_length=64, json_schema_extra=keyed_by("name"))
    ] = []
    """env is added to the container's environment."""


class PodMetadata(ApiModel):
    """What is added to the pods' metadata."""

    labels: StringMap = {}
    """labels are added to the pods."""

    annotations: StringMap = {}
    """annotations are added to the pods."""


class PodOverrides(ApiModel):
    """What is added to the pods' specification."""

    node_selector: StringMap = {}
    """nodeSelector names labels that a node must have."""

    tolerations: Annotated[list[Toleration], Field(max_length=32, json_schema_extra=ATOMIC)] = []
    """tolerations are the taints that the pods accept."""

    topology_spread_constraints: Annotated[
        list[TopologySpreadConstraint],
        Field(max_length=8, json_schema_extra=keyed_by("topologyKey")),
    ] = []
    """topologySpreadConstraints spread the pods over the nodes."""

    runtime_class_name: ObjectName | None = None
    """runtimeClassName is the container runtime of the pods."""

    scheduler_name: ObjectName | None = None
    """schedulerName is the scheduler of the pods."""

    service_account_name: Annotated[ObjectName | None, Names.SERVICE_ACCOUNT] = None
    """serviceAccountName is the identity of the pods; they mount no token of it."""

    image_pull_secrets: Annotated[
        list[ImagePullSecret], Field(max_length=8, json_schema_extra=keyed_by("name"))
    ] = []
    """imagePullSecrets open the registry of the images."""

    containers: Annotated[
        list[ContainerOverride], Field(max_length=8, json_schema_extra=keyed_by("name"))
    ] = []
    """containers are merged by name into the operator's."""


TEMPLATE_TEXT = (
    f"`podTemplate` must have at most {MOST_TEXT} characters in labels, annotations, "
    "`nodeSelector` and variables together"
)


def _of_map(field: str) -> str:
    return f"(has({field}) ? {field}.map(k, size(k) + size({field}[k])).sum() : 0)"


class PodTemplate(ApiModel):
    """What the workers' pods have beyond what the operator gives them."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                f"(has(self.metadata) ? {_of_map('self.metadata.labels')} + "
                f"{_of_map('self.metadata.annotations')} : 0) + (has(self.spec) ? "
                f"{_of_map('self.spec.nodeSelector')} + (has(self.spec.containers) ? "
                "self.spec.containers.map(c, has(c.env) ? "
                "c.env.map(e, size(e.name) + (has(e.value) ? size(e.value) : 0)).sum() : 0).sum() "
                f": 0) : 0) <= {MOST_TEXT}",
                TEMPLATE_TEXT,
            ),
        )
    )

    metadata: PodMetadata = PodMetadata()
    """metadata is added to the pods' metadata."""

    spec: PodOverrides = PodOverrides()
    """spec is added to the pods' specification."""

    @model_validator(mode="after")
    def _text_fits(self) -> Self:
        given = self.metadata.labels, self.metadata.annotations, self.spec.node_selector
        texts = [text for one in given for text in (*one, *one.values())]
        texts += [
            text for c in self.spec.containers for one in c.env for text in (one.name, one.value)
        ]
        if sum(map(len, texts)) > MOST_TEXT:
            raise ValueError(f"{TEMPLATE_TEXT}, got {sum(map(len, texts))}")
        return self

"""The workers of one role in the resource: how many and how large. Data only."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from steelyard_operator.api.maxima import PositiveReplicas, Replicas
from steelyard_operator.api.meta import (
    ApiModel,
    ObjectName,
    ResourceRequirements,
    rules,
)
from steelyard_operator.api.pods import PodTemplate

REPLICAS_ALONE = (
    "`replicas` may not be given with `minReplicas`, `maxReplicas` or `initialReplicas`"
)
RANGE_WHOLE = "`minReplicas` and `maxReplicas` must be given together"
RANGE_ORDERED = "`minReplicas` must not exceed `maxReplicas`"
START_IN_RANGE = "`initialReplicas` must be from `minReplicas` to `maxReplicas`"


class RoleSpec(ApiModel):
    """The workers of one role."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.replicas) || !(has(self.minReplicas) || has(self.maxReplicas) || "
                "has(self.initialReplicas))",
                REPLICAS_ALONE,
            ),
            ("has(self.minReplicas) == has(self.maxReplicas)", RANGE_WHOLE),
            (
                "!has(self.minReplicas) || !has(self.maxReplicas) || "
                "self.minReplicas <= self.maxReplicas",
                RANGE_ORDERED,
            ),
            (
                "!has(self.initialReplicas) || !has(self.minReplicas) || !has(self.maxReplicas) || "
                "(self.minReplicas <= self.initialReplicas && "
                "self.initialReplicas <= self.maxReplicas)",
                START_IN_RANGE,
            ),
        )
    )

    replicas: Replicas | None = None
    """replicas is a fixed number of workers; may not be given with minReplicas or maxReplicas."""

    min_replicas: Replicas | None = None
    """minReplicas is the fewest workers that the planner may choose."""

    max_replicas: PositiveReplicas | None = None
    """maxReplicas is the most workers that the planner may choose."""

    initial_replicas: Replicas | None = None
    """initialReplicas is the number to start with; minReplicas where it is not given."""

    resources: ResourceRequirements = ResourceRequirements()
    """resources of one worker."""

    tensor_parallel: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """tensorParallel is the number of accelerators of one worker."""

    pod_template: PodTemplate = PodTemplate()
    """podTemplate is what the pods have beyond what the operator gives them."""

    priority_class_name: ObjectName | None = None
    """priorityClassName of the workers' pods."""

    @model_validator(mode="after")
    def _replicas_or_range(self) -> Self:
        ranged = self.min_replicas is not None or self.max_replicas is not None
        if self.replicas is not None and (ranged or self.initial_replicas is not None):
            raise ValueError(REPLICAS_ALONE)
        if not ranged:
            return self
        if self.min_replicas is None or self.max_replicas is None:
            raise ValueError(RANGE_WHOLE)
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"{RANGE_ORDERED}, got {self.min_replicas} and {self.max_replicas}")
        if not self.min_replicas <= self.start_replicas <= self.max_replicas:
            raise ValueError(
                f"`initialReplicas` must be from {self.min_replicas} to {self.max_replicas}, "
                f"got {self.initial_replicas}"
            )
        return self

    @property
    def start_replicas(self) -> int:
        """How many workers a new service starts with."""
        for choice in (self.replicas, self.initial_replicas, self.min_replicas):
            if choice is not None:
                return choice
        return 1

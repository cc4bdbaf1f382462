"""InferenceService, version v1alpha1: fields, documentation and rules; data only.

This is the only source of the resource's shape. What a field does is decided elsewhere.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from steelyard_operator.api.meta import (
    CURRENCY_PATTERN,
    MODEL_URI_PATTERN,
    ApiModel,
    DecimalString,
    EnvironmentVariable,
    Int32,
    ObjectMeta,
    PositiveInt32,
    ResourceRequirements,
    SecretKeyRef,
)

ModelUri = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=MODEL_URI_PATTERN,
    ),
]


class Backend(StrEnum):
    """The engine that serves."""

    NATIVE = "Native"
    VLLM = "VLLM"


class ServiceType(StrEnum):
    """How the router is reached."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class ModelSpec(ApiModel):
    """What is served."""

    uri: ModelUri
    """uri names the checkpoint: hf://org/name[@revision], pvc://claim/path, s3://bucket/path,
    oci://image, file:///path, or package://distribution/file for a file inside an installed Python
    package."""

    served_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """servedName is the model's name in the API; the last part of uri where it is not given."""

    max_model_len: PositiveInt32 | None = None
    """maxModelLen is the longest prompt plus output in tokens; the checkpoint's if not given."""

    credentials_secret_ref: SecretKeyRef | None = None
    """credentialsSecretRef names the key that opens uri."""

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.served_name or self.uri.rstrip("/").rsplit("/", 1)[-1]


class RuntimeSpec(ApiModel):
    """How it is served."""

    backend: Backend = Backend.NATIVE
    """backend is the engine: Native or VLLM."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """image of the workers; the operator's own release where it is not given."""

    extra_args: Annotated[list[Annotated[str, Field(max_length=1024)]], Field(max_length=64)] = []
    """extraArgs are appended to every worker's command line."""

    env: Annotated[list[EnvironmentVariable], Field(max_length=64)] = []
    """env is added to every worker's environment."""


class RoleSpec(ApiModel):
    """The workers of one role."""

    replicas: Int32 | None = None
    """replicas is a fixed number of workers; may not be given with minReplicas or maxReplicas."""

    min_replicas: Int32 | None = None
    """minReplicas is the fewest workers that the planner may choose."""

    max_replicas: PositiveInt32 | None = None
    """maxReplicas is the most workers that the planner may choose."""

    initial_replicas: Int32 | None = None
    """initialReplicas is the number to start with; minReplicas where it is not given."""

    resources: ResourceRequirements = ResourceRequirements()
    """resources of one worker."""

    tensor_parallel: PositiveInt32 = 1
    """tensorParallel is the number of accelerators of one worker."""

    priority_class_name: Annotated[str, Field(max_length=253)] | None = None
    """priorityClassName of the workers' pods."""

    @model_validator(mode="after")
    def _replicas_or_range(self) -> Self:
        ranged = self.min_replicas is not None or self.max_replicas is not None
        if self.replicas is not None and (ranged or self.initial_replicas is not None):
            raise ValueError(
                "`replicas` may not be given with `minReplicas`, `maxReplicas` or `initialReplicas`"
            )
        if not ranged:
            return self
        if self.min_replicas is None or self.max_replicas is None:
            raise ValueError("`minReplicas` and `maxReplicas` must be given together")
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"`minReplicas` must not exceed `maxReplicas`, "
                f"got {self.min_replicas} and {self.max_replicas}"
            )
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


class ObjectivesSpec(ApiModel):
    """The latencies that the service keeps."""

    ttft_milliseconds: PositiveInt32 | None = None
    """ttftMilliseconds is the objective for the time to the first token."""

    tpot_milliseconds: PositiveInt32 | None = None
    """tpotMilliseconds is the objective for the time per output token after the first."""

    percentile: Annotated[int, Field(strict=True, ge=1, le=99)] = 95
    """percentile of requests that must meet the objectives."""


class CapacitySpec(ApiModel):
    """The bounds that the planner stays inside."""

    max_accelerators: PositiveInt32 | None = None
    """maxAccelerators is never exceeded, whatever else is asked; on a CPU a worker counts 1."""

    min_prefill_per_decode_percent: PositiveInt32 | None = None
    """minPrefillPerDecodePercent is the lowest ratio of prefill to decode workers."""

    max_prefill_per_decode_percent: PositiveInt32 | None = None
    """maxPrefillPerDecodePercent is the highest ratio of prefill to decode workers."""

    @model_validator(mode="after")
    def _ratio_is_a_range(self) -> Self:
        low, high = self.min_prefill_per_decode_percent, self.max_prefill_per_decode_percent
        if low is not None and high is not None and low > high:
            raise ValueError(
                "`minPrefillPerDecodePercent` must not exceed `maxPrefillPerDecodePercent`, "
                f"got {low} and {high}"
            )
        return self


class CostSpec(ApiModel):
    """What a worker costs; the source of every price that Steelyard reports."""

    currency: Annotated[str, Field(pattern=CURRENCY_PATTERN)] = "USD"
    """currency of the prices, three letters as in ISO 4217."""

    accelerator_hourly: DecimalString
    """acceleratorHourly is the price of one accelerator for one hour; on a CPU, of one worker."""

    ceiling_per_million_tokens: DecimalString | None = None
    """ceilingPerMillionTokens is the cost per million tokens that the planner stays under."""

    @property
    def hourly(self) -> Decimal:
        """The price of one accelerator for one hour."""
        return Decimal(self.accelerator_hourly)


class RouterServiceSpec(ApiModel):
    """The Service in front of the router."""

    type: ServiceType = ServiceType.CLUSTER_IP
    """type of the Service."""

    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = 80
    """port of the Service."""


class RouterSpec(ApiModel):
    """The HTTP front of the service."""

    replicas: PositiveInt32 = 2
    """replicas of the router; local mode runs one."""

    api_keys_secret_ref: SecretKeyRef | None = None
    """apiKeysSecretRef names the key that holds the clients' API keys; open where not given."""

    service: RouterServiceSpec = RouterServiceSpec()
    """service is the Service in front of the router."""


class RolloutSpec(ApiModel):
    """How workers are replaced."""

    drain_seconds: Annotated[int, Field(strict=True, ge=1, le=3600)] = 30
    """drainSeconds is how long a worker may finish its requests before it is stopped."""


class InferenceServiceSpec(ApiModel):
    """The desired state."""

    model: ModelSpec
    """model is what is served."""

    runtime: RuntimeSpec = RuntimeSpec()
    """runtime is how it is served."""

    prefill: RoleSpec = RoleSpec()
    """prefill configures the workers that read prompts."""

    decode: RoleSpec = RoleSpec()
    """decode configures the workers that write answers."""

    objectives: ObjectivesSpec = ObjectivesSpec()
    """objectives are the latencies that the service keeps."""

    capacity: CapacitySpec = CapacitySpec()
    """capacity bounds what the planner may use."""

    cost: CostSpec | None = None
    """cost is what a worker costs; without it no cost is reported."""

    router: RouterSpec = RouterSpec()
    """router is the HTTP front of the service."""

    rollout: RolloutSpec = RolloutSpec()
    """rollout is how workers are replaced."""

    @model_validator(mode="after")
    def _start_fits_capacity(self) -> Self:
        limit = self.capacity.max_accelerators
        roles = (self.prefill, self.decode)
        needed = sum(role.start_replicas * role.tensor_parallel for role in roles)
        if limit is not None and needed > limit:
            raise ValueError(
                f"`prefill` and `decode` start with {needed} accelerators; "
                f"must be at most `capacity.maxAccelerators`, {limit}"
            )
        return self


class InferenceService(ApiModel):
    """An OpenAI-compatible endpoint, served by separate prefill and decode workers."""

    api_version: Literal["steelyard.dev/v1alpha1"]
    """apiVersion of the object."""

    kind: Literal["InferenceService"]
    """kind of the object."""

    metadata: ObjectMeta
    """metadata names the service."""

    spec: InferenceServiceSpec
    """spec is the desired state."""

    status: dict[str, Any] | None = None
    """status is written by the operator and ignored when a file is read."""

"""InferenceService, version v1alpha1: fields, documentation and rules; data only.

This is the only source of the resource's shape. What a field does is decided elsewhere.
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from steelyard_operator.api.maxima import MOST_TEXT, ModelTokens, RouterReplicas
from steelyard_operator.api.meta import (
    ATOMIC,
    SERVICE_NAME_PATTERN,
    ApiModel,
    EnvironmentVariable,
    ObjectMeta,
    SecretKeyRef,
    keyed_by,
    rules,
)
from steelyard_operator.api.names import MAX_NAME_CHARACTERS
from steelyard_operator.api.operations import (
    CapacitySpec,
    CostSpec,
    ObjectivesSpec,
    RebalancingSpec,
    RolloutSpec,
    Switch,
)
from steelyard_operator.api.optimisations import CompressionSpec, SpeculationSpec
from steelyard_operator.api.roles import RoleSpec
from steelyard_operator.api.sources import ModelUri
from steelyard_operator.api.status import InferenceServiceStatus


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
    """servedName is the model's name in the API; the last part of uri, without its revision or tag,
    where it is not given."""

    max_model_len: ModelTokens | None = None
    """maxModelLen is the longest prompt plus output in tokens; the checkpoint's if not given."""

    credentials_secret_ref: SecretKeyRef | None = None
    """credentialsSecretRef names the key that opens uri."""

    @property
    def name(self) -> str:
        """The name that requests use."""
        if self.served_name:
            return self.served_name
        last = self.uri.rstrip("/").rsplit("/", 1)[-1]
        if self.uri.startswith(("hf://", "oci://")):
            last = last.partition("@")[0]
        return last.partition(":")[0] if self.uri.startswith("oci://") else last


ENGINE_TEXT = f"`extraArgs` and `env` must have at most {MOST_TEXT} characters together"


class RuntimeSpec(ApiModel):
    """How it is served."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "(has(self.extraArgs) ? self.extraArgs.map(a, size(a)).sum() : 0) + "
                "(has(self.env) ? self.env.map(e, size(e.name) + "
                f"(has(e.value) ? size(e.value) : 0)).sum() : 0) <= {MOST_TEXT}",
                ENGINE_TEXT,
            ),
        )
    )

    backend: Backend = Backend.NATIVE
    """backend is the engine: Native or VLLM."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """image of the workers; the operator's own release where it is not given."""

    extra_args: Annotated[
        list[Annotated[str, Field(max_length=1024)]],
        Field(max_length=64, json_schema_extra=ATOMIC),
    ] = []
    """extraArgs are appended to every worker's command line."""

    env: Annotated[
        list[EnvironmentVariable], Field(max_length=64, json_schema_extra=keyed_by("name"))
    ] = []
    """env is added to every worker's environment."""

    @model_validator(mode="after")
    def _text_fits(self) -> Self:
        variables = [text for one in self.env for text in (one.name, one.value)]
        characters = sum(map(len, (*self.extra_args, *variables)))
        if characters > MOST_TEXT:
            raise ValueError(f"{ENGINE_TEXT}, got {characters}")
        return self


class RouterServiceSpec(ApiModel):
    """The Service in front of the router."""

    type: ServiceType = ServiceType.CLUSTER_IP
    """type of the Service."""

    port: Annotated[int, Field(strict=True, ge=1, le=65535)] = 80
    """port of the Service."""


class ParentRef(ApiModel):
    """A Gateway, as in the Gateway API."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """name of the Gateway."""

    namespace: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    """namespace of the Gateway; the service's where it is not given."""

    section_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """sectionName is the Gateway's listener; all of them where it is not given."""


class GatewaySpec(ApiModel):
    """How the router hangs behind a Gateway."""

    parent_ref: ParentRef
    """parentRef names the Gateway that an HTTPRoute leads from."""


class RouterSpec(ApiModel):
    """The HTTP front of the service."""

    replicas: RouterReplicas = 2
    """replicas of the router; local mode runs one."""

    api_keys_secret_ref: SecretKeyRef | None = None
    """apiKeysSecretRef names the key that holds the clients' API keys; open where not given."""

    service: RouterServiceSpec = RouterServiceSpec()
    """service is the Service in front of the router."""

    gateway: GatewaySpec | None = None
    """gateway leads requests from a Gateway to the router."""


FITS_CAPACITY = (
    "`prefill` and `decode` must start with at most `capacity.maxAccelerators` accelerators"
)
SHORT_NAME_ONLY = f"`metadata.name` must be at most {MAX_NAME_CHARACTERS} characters"
LABEL_NAME = "`metadata.name` must be lower-case letters, digits and '-', starting with a letter"
# A worker that changes its role keeps its pod, so both roles' pods must be the same.
SHARED = ("resources", "tensorParallel", "podTemplate", "priorityClassName")


def _equal(field: str) -> str:
    prefill, decode = f"self.prefill.{field}", f"self.decode.{field}"
    return (
        f"self.rebalancing.flip != 'Enabled' || (has({prefill}) == has({decode}) && "
        f"(!has({prefill}) || dyn({prefill}) == dyn({decode})))"
    )


def _same(field: str) -> str:
    return f"`{field}` of `prefill` and `decode` must be equal when `rebalancing.flip` is 'Enabled'"


def _start(role: str) -> str:
    fields = ("initialReplicas", "minReplicas")
    choice = "1"
    for field in (*reversed(fields), "replicas"):
        choice = f"(has(self.{role}.{field}) ? self.{role}.{field} : {choice})"
    return f"{choice} * self.{role}.tensorParallel"


class InferenceServiceSpec(ApiModel):
    """The desired state."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *((_equal(field), _same(field)) for field in SHARED),
            (
                "!has(self.capacity) || !has(self.capacity.maxAccelerators) || "
                f"{_start('prefill')} + {_start('decode')} <= self.capacity.maxAccelerators",
                FITS_CAPACITY,
            ),
        )
    )

    model: ModelSpec
    """model is what is served."""

    runtime: RuntimeSpec = RuntimeSpec()
    """runtime is how it is served."""

    prefill: RoleSpec = RoleSpec()
    """prefill configures the workers that read prompts."""

    decode: RoleSpec = RoleSpec()
    """decode configures the workers that write answers."""

    speculation: SpeculationSpec = SpeculationSpec()
    """speculation proposes several tokens for one step of the model."""

    compression: CompressionSpec = CompressionSpec()
    """compression makes weights and KV blocks smaller."""

    objectives: ObjectivesSpec = ObjectivesSpec()
    """objectives are the latencies that the service keeps."""

    capacity: CapacitySpec = CapacitySpec()
    """capacity bounds what the planner may use."""

    rebalancing: RebalancingSpec = RebalancingSpec()
    """rebalancing says what the planner may do by itself."""

    cost: CostSpec | None = None
    """cost is what a worker costs; without it no cost is reported."""

    router: RouterSpec = RouterSpec()
    """router is the HTTP front of the service."""

    rollout: RolloutSpec = RolloutSpec()
    """rollout is how workers are replaced."""

    suspend: Switch = Switch.DISABLED
    """suspend is Enabled to keep the operator's hands off everything that the service has."""

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

    @model_validator(mode="after")
    def _roles_are_alike_where_they_flip(self) -> Self:
        for name, field in RoleSpec.model_fields.items():
            differs = getattr(self.prefill, name) != getattr(self.decode, name)
            if self.rebalancing.flip is Switch.ENABLED and field.alias in SHARED and differs:
                raise ValueError(_same(field.alias))
        return self


class InferenceService(ApiModel):
    """An OpenAI-compatible endpoint, served by separate prefill and decode workers."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (f"size(self.metadata.name) <= {MAX_NAME_CHARACTERS}", SHORT_NAME_ONLY),
            (f"self.metadata.name.matches('{SERVICE_NAME_PATTERN}')", LABEL_NAME),
        )
    )

    api_version: Literal["steelyard.dev/v1alpha1"]
    """apiVersion of the object."""

    kind: Literal["InferenceService"]
    """kind of the object."""

    metadata: ObjectMeta
    """metadata names the service."""

    spec: InferenceServiceSpec
    """spec is the desired state."""

    status: InferenceServiceStatus | None = None
    """status is written by the operator and ignored when a file is read."""

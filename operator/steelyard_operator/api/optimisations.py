"""Speculation and compression in the resource: fewer steps and fewer bytes per token. Data only."""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from steelyard_operator.api.meta import ApiModel, ResourceRequirements, SecretKeyRef, Text, rules
from steelyard_operator.api.sources import ModelUri

DRAFT_ONLY = "`draft` may not be given unless `method` is 'DraftModel'"
DRAFT_NEEDED = "`draft` must be given when `method` is 'DraftModel'"
GATE_ONLY = (
    "`qualityGate` may not be given unless `weights`, `kvCache` or `pruning` changes the model"
)


class SpeculationMethod(StrEnum):
    """Who proposes tokens."""

    NONE = "None"
    N_GRAM = "NGram"
    DRAFT_MODEL = "DraftModel"


class SpeculationPolicy(StrEnum):
    """Who chooses the number of proposed tokens."""

    ADAPTIVE = "Adaptive"
    FIXED = "Fixed"


class WeightFormat(StrEnum):
    """How weights are kept."""

    NONE = "None"
    FP8 = "FP8"
    INT8 = "INT8"
    INT4 = "INT4"
    MXFP4 = "MXFP4"


class KVCacheFormat(StrEnum):
    """How keys and values are kept."""

    AUTO = "Auto"
    FP8 = "FP8"


class PruningMethod(StrEnum):
    """What is left out of the model."""

    WANDA = "Wanda"
    MAGNITUDE = "Magnitude"
    LAYER_DROP = "LayerDrop"
    EXPERT_DROP = "ExpertDrop"


class DraftModelSource(ApiModel):
    """The checkpoint of the draft model."""

    uri: ModelUri
    """uri names the checkpoint, in the schemes of spec.model.uri."""

    credentials_secret_ref: SecretKeyRef | None = None
    """credentialsSecretRef names the key that opens uri."""


class DraftSpec(ApiModel):
    """The small model that proposes tokens."""

    model: DraftModelSource
    """model is the draft model's checkpoint."""

    resources: ResourceRequirements = ResourceRequirements()
    """resources of the draft beside one worker."""

    max_tokens: Annotated[int, Field(strict=True, ge=1, le=32)] = 4
    """maxTokens is the most tokens that are proposed at once."""


class SpeculationSpec(ApiModel):
    """Speculative decoding."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("!has(self.draft) || self.method == 'DraftModel'", DRAFT_ONLY),
            ("has(self.draft) || self.method != 'DraftModel'", DRAFT_NEEDED),
        )
    )

    method: SpeculationMethod = SpeculationMethod.NONE
    """method says who proposes tokens: None, NGram or DraftModel."""

    draft: DraftSpec | None = None
    """draft is the model that proposes tokens; only with method DraftModel."""

    policy: SpeculationPolicy = SpeculationPolicy.ADAPTIVE
    """policy is Adaptive, to propose what pays at the moment, or Fixed, to propose maxTokens."""

    @model_validator(mode="after")
    def _draft_fits_method(self) -> Self:
        wanted = self.method is SpeculationMethod.DRAFT_MODEL
        if wanted != (self.draft is not None):
            raise ValueError(DRAFT_NEEDED if wanted else DRAFT_ONLY)
        return self


class PruningSpec(ApiModel):
    """What is left out of the model."""

    method: PruningMethod
    """method of pruning: Wanda, Magnitude, LayerDrop or ExpertDrop."""

    sparsity_percent: Annotated[int, Field(strict=True, ge=1, le=90)]
    """sparsityPercent is the share that is left out."""


class QualityGateSpec(ApiModel):
    """How much worse the compressed model may be before it is refused."""

    max_perplexity_increase_percent: Annotated[int, Field(strict=True, ge=0, le=1000)] = 5
    """maxPerplexityIncreasePercent is the most that perplexity may rise."""

    dataset: Text | None = None
    """dataset on which perplexity is measured; one that is built in where it is not given."""


class CompressionSpec(ApiModel):
    """Smaller weights, smaller KV blocks, fewer of them."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.qualityGate) || has(self.pruning) || self.weights != 'None' || "
                "self.kvCache != 'Auto'",
                GATE_ONLY,
            ),
        )
    )

    weights: WeightFormat = WeightFormat.NONE
    """weights is the format of the weights; None leaves them as the checkpoint has them."""

    kv_cache: Annotated[KVCacheFormat, Field(alias="kvCache")] = KVCacheFormat.AUTO
    """kvCache is the format of KV blocks; Auto is the model's own."""

    pruning: PruningSpec | None = None
    """pruning says what is left out of the model."""

    quality_gate: QualityGateSpec | None = None
    """qualityGate refuses a compressed model that is too much worse."""

    @model_validator(mode="after")
    def _gate_has_work(self) -> Self:
        changed = (
            self.pruning is not None
            or self.weights is not WeightFormat.NONE
            or self.kv_cache is not KVCacheFormat.AUTO
        )
        if self.quality_gate is not None and not changed:
            raise ValueError(GATE_ONLY)
        return self

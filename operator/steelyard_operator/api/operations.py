"""How a service is run: latencies, bounds, balance, prices, replacement of workers. Data only."""

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from steelyard_operator.api.maxima import (
    Accelerators,
    ObjectiveMilliseconds,
    RatioPercent,
    Replicas,
    Time,
)
from steelyard_operator.api.meta import (
    CURRENCY_PATTERN,
    ApiModel,
    DecimalString,
    rules,
)

RATIO_ORDERED = "`minPrefillPerDecodePercent` must not exceed `maxPrefillPerDecodePercent`"
ROLLOUT_CAN_MOVE = "`maxUnavailable` and `maxSurge` must not both be 0"


class Switch(StrEnum):
    """Whether something is done."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"


class RebalancingMode(StrEnum):
    """What the planner does with a better ratio."""

    AUTO = "Auto"
    RECOMMEND = "Recommend"
    OFF = "Off"


class ObjectivesSpec(ApiModel):
    """The latencies that the service keeps."""

    ttft_milliseconds: ObjectiveMilliseconds | None = None
    """ttftMilliseconds is the objective for the time to the first token."""

    tpot_milliseconds: ObjectiveMilliseconds | None = None
    """tpotMilliseconds is the objective for the time per output token after the first."""

    percentile: Annotated[int, Field(strict=True, ge=1, le=99)] = 95
    """percentile of requests that must meet the objectives."""


class CapacitySpec(ApiModel):
    """The bounds that the planner stays inside."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.minPrefillPerDecodePercent) || !has(self.maxPrefillPerDecodePercent) || "
                "self.minPrefillPerDecodePercent <= self.maxPrefillPerDecodePercent",
                RATIO_ORDERED,
            ),
        )
    )

    max_accelerators: Accelerators | None = None
    """maxAccelerators is never exceeded, whatever else is asked; on a CPU a worker counts 1."""

    min_prefill_per_decode_percent: RatioPercent | None = None
    """minPrefillPerDecodePercent is the lowest ratio of prefill to decode workers."""

    max_prefill_per_decode_percent: RatioPercent | None = None
    """maxPrefillPerDecodePercent is the highest ratio of prefill to decode workers."""

    @model_validator(mode="after")
    def _ratio_is_a_range(self) -> Self:
        low, high = self.min_prefill_per_decode_percent, self.max_prefill_per_decode_percent
        if low is not None and high is not None and low > high:
            raise ValueError(f"{RATIO_ORDERED}, got {low} and {high}")
        return self


class CostSpec(ApiModel):
    """What a worker costs; the source of every price that Steelyard reports."""

    currency: Annotated[str, Field(max_length=3, pattern=CURRENCY_PATTERN)] = "USD"
    """currency of the prices, three letters as in ISO 4217."""

    accelerator_hourly: DecimalString
    """acceleratorHourly is the price of one accelerator for one hour; on a CPU, of one worker."""

    ceiling_per_million_tokens: DecimalString | None = None
    """ceilingPerMillionTokens is the cost per million tokens that the planner stays under."""

    @property
    def hourly(self) -> Decimal:
        """The price of one accelerator for one hour."""
        return Decimal(self.accelerator_hourly)


class RebalancingSpec(ApiModel):
    """What the planner may do by itself."""

    mode: RebalancingMode = RebalancingMode.AUTO
    """mode is Auto to act, Recommend to write decisions into status only, or Off."""

    cooldown_seconds: Annotated[int, Field(strict=True, ge=1, le=86400)] = 60
    """cooldownSeconds is the shortest time between two changes."""

    flip: Switch = Switch.ENABLED
    """flip is Enabled to let a worker change its role in its pod. Both roles then need the same
    resources, tensorParallel, podTemplate and priorityClassName."""


class RolloutSpec(ApiModel):
    """How workers are replaced."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.maxUnavailable > 0 || self.maxSurge > 0", ROLLOUT_CAN_MOVE),
        )
    )

    max_unavailable: Replicas = 0
    """maxUnavailable is how many workers of a role may be missing while workers are replaced."""

    max_surge: Replicas = 1
    """maxSurge is how many workers of a role there may be beyond its number, inside
    capacity.maxAccelerators."""

    drain_seconds: Annotated[int, Field(strict=True, ge=1, le=3600)] = 30
    """drainSeconds is how long a worker may finish its requests before it is stopped."""

    progress_deadline_seconds: Annotated[int, Field(strict=True, ge=1, le=86400)] = 1800
    """progressDeadlineSeconds is how long a rollout may stand still before it is Stalled."""

    pending_deadline_seconds: Annotated[int, Field(strict=True, ge=1, le=86400)] = 300
    """pendingDeadlineSeconds is how long a pod may wait for a node before its plan is rolled
    back."""

    restarted_at: Time | None = None
    """restartedAt replaces all workers once whenever it is changed; a time."""

    paused: Switch = Switch.DISABLED
    """paused is Enabled to hold rollouts; scaling and repair go on."""

    @model_validator(mode="after")
    def _can_move(self) -> Self:
        if self.max_unavailable == 0 and self.max_surge == 0:
            raise ValueError(ROLLOUT_CAN_MOVE)
        return self

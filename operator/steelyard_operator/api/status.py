"""What the operator reports in the resource's status. Data only.

Nothing here changes faster than every 30 seconds unless its meaning changed.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from steelyard_operator.api.maxima import Time
from steelyard_operator.api.meta import (
    ATOMIC,
    CURRENCY_PATTERN,
    ApiModel,
    DecimalString,
    Int32,
    Int64,
    Text,
    keyed_by,
)
from steelyard_operator.api.plan_status import PlanStatus, Workers

REASON_PATTERN = r"^[A-Z][A-Za-z0-9]*$"
MAX_DECISIONS = 10

Reason = Annotated[str, Field(min_length=1, max_length=128, pattern=REASON_PATTERN)]
"""One CamelCase word that programs may compare."""


class ConditionType(StrEnum):
    """What a condition is about."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    MODEL_READY = "ModelReady"
    PREFILL_READY = "PrefillReady"
    DECODE_READY = "DecodeReady"
    ROUTER_READY = "RouterReady"
    QUALITY_GATE_PASSED = "QualityGatePassed"
    SPECULATION_ACTIVE = "SpeculationActive"
    WITHIN_OBJECTIVES = "WithinObjectives"
    WITHIN_COST = "WithinCost"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One aspect of the service's state."""

    type: Annotated[str, Field(min_length=1, max_length=64, pattern=REASON_PATTERN)]
    """type of the condition, as in Ready."""

    status: ConditionStatus
    """status is True, False or Unknown."""

    observed_generation: Int64 = 0
    """observedGeneration is the generation of the resource that this was found for."""

    last_transition_time: Time
    """lastTransitionTime is when status changed last."""

    reason: Reason
    """reason is one CamelCase word."""

    message: Annotated[str, Field(max_length=4096)] = ""
    """message is a sentence for people."""


class RoleStatus(ApiModel):
    """The workers of one role."""

    summary: Annotated[str, Field(max_length=32)] = "0/0"
    """summary is readyReplicas of replicas, as in 1/2."""

    replicas: Int32 = 0
    """replicas is the number of workers."""

    target_replicas: Int32 | None = None
    """targetReplicas is the number of workers that the operator works towards."""

    ready_replicas: Int32 = 0
    """readyReplicas is the number of workers that take requests."""

    draining_replicas: Int32 = 0
    """drainingReplicas is the number of workers that finish their requests before they end."""

    in_flight: Int32 = 0
    """inFlight is the number of requests in the workers."""


class RatioStatus(ApiModel):
    """Prefill workers in relation to decode workers."""

    prefill_per_decode_percent: Int32
    """prefillPerDecodePercent is 100 where there are as many prefill as decode workers."""

    target_percent: Int32 | None = None
    """targetPercent is the ratio that the planner aims for."""


class ObservedObjectives(ApiModel):
    """The latencies that were measured, at the percentile of spec.objectives."""

    ttft_milliseconds: Int32 | None = None
    """ttftMilliseconds is the time to the first token."""

    tpot_milliseconds: Int32 | None = None
    """tpotMilliseconds is the time per output token after the first."""

    percentile: Annotated[int, Field(strict=True, ge=1, le=99)] = 95
    """percentile of the requests that were at least as fast."""

    window_seconds: Int32 = 0
    """windowSeconds is the time over which was measured."""


class CostStatus(ApiModel):
    """What tokens cost."""

    per_million_tokens: DecimalString
    """perMillionTokens is the cost of a million tokens of prompts and answers."""

    per_million_input: DecimalString | None = None
    """perMillionInput is the cost of a million tokens of prompts."""

    per_million_output: DecimalString | None = None
    """perMillionOutput is the cost of a million tokens of answers."""

    currency: Annotated[str, Field(max_length=3, pattern=CURRENCY_PATTERN)] = "USD"
    """currency of the costs."""

    window_seconds: Int32 = 0
    """windowSeconds is the time over which was measured."""


class DecisionInputs(ApiModel):
    """What a decision was made from."""

    workers: Workers
    """workers that there were."""

    requests_per_minute: Int32 = 0
    """requestsPerMinute that arrived."""

    input_tokens_per_second: Int32 = 0
    """inputTokensPerSecond that arrived in prompts."""

    output_tokens_per_second: Int32 = 0
    """outputTokensPerSecond that were asked for."""

    queued_requests: Int32 = 0
    """queuedRequests that waited."""


class Outcome(ApiModel):
    """What a decision promised, or brought."""

    ttft_milliseconds: Int32 | None = None
    """ttftMilliseconds is the time to the first token."""

    tpot_milliseconds: Int32 | None = None
    """tpotMilliseconds is the time per output token after the first."""

    per_million_tokens: DecimalString | None = None
    """perMillionTokens is the cost of a million tokens."""


class Decision(ApiModel):
    """One choice of the planner."""

    time: Time
    """time of the decision."""

    reason: Reason
    """reason is one CamelCase word."""

    message: Text = ""
    """message is a sentence for people."""

    inputs: DecisionInputs
    """inputs are what was measured."""

    target: Workers
    """target is what was chosen."""

    predicted: Outcome | None = None
    """predicted is what the model of the service expected."""

    realised: Outcome | None = None
    """realised is what was measured afterwards."""


class InferenceServiceStatus(ApiModel):
    """The observed state."""

    conditions: Annotated[
        list[Condition], Field(max_length=32, json_schema_extra=keyed_by("type"))
    ] = []
    """conditions are the aspects of the service's state; Ready sums them up."""

    observed_generation: Int64 | None = None
    """observedGeneration is the generation of the resource that the operator has acted on."""

    url: Annotated[str, Field(max_length=2048)] | None = None
    """url of the endpoint inside the cluster."""

    prefill: RoleStatus | None = None
    """prefill is the state of the workers that read prompts."""

    decode: RoleStatus | None = None
    """decode is the state of the workers that write answers."""

    router: RoleStatus | None = None
    """router is the state of the HTTP front."""

    ratio: RatioStatus | None = None
    """ratio of prefill to decode workers."""

    objectives: ObservedObjectives | None = None
    """objectives are the latencies that were measured."""

    cost: CostStatus | None = None
    """cost of the tokens that were served."""

    plan: PlanStatus | None = None
    """plan is the change that is under way, or the last one."""

    decisions: Annotated[
        list[Decision], Field(max_length=MAX_DECISIONS, json_schema_extra=ATOMIC)
    ] = []
    """decisions are the planner's last ten, the newest first."""

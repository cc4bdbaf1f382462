"""The fields that completions and chat completions share.

Types are strict, ranges are here; whatever depends on the model or on several fields is decided
in `server/sampling_fields.py`. Unknown fields are kept aside so that they can be counted.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
StopString = Annotated[str, Field(min_length=1, max_length=1000)]
# One wrong member says enough; pydantic would collect each of a million.
TokenIdList = Annotated[list[TokenId], Field(fail_fast=True)]


class RequestModel(BaseModel):
    """A JSON object of a request: strict types, unknown fields allowed."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class StreamOptions(RequestModel):
    """`stream_options` of OpenAI."""

    include_usage: bool | None = None


class JsonSchemaFormat(RequestModel):
    """`response_format.json_schema` of OpenAI."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(RequestModel):
    """`response_format` of OpenAI."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class SteelyardOptions(RequestModel):
    """What our own router asks for; `docs/contract.md` section 2."""

    resume_token_ids: TokenIdList | None = None
    timing: bool | None = None


class GenerationRequest(RequestModel):
    """Sampling, stopping, streaming and transfer fields."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    temperature: Annotated[FiniteFloat, Field(ge=0, le=2)] | None = None
    top_p: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[FiniteFloat, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[FiniteFloat, Field(ge=-2, le=2)] | None = None
    # vLLM takes anything above 0; what clients send lies between 0.5 and 2. A logit times 0.01 or
    # 100 is a number that can be told from others in float32, whatever else is done to it.
    repetition_penalty: Annotated[FiniteFloat, Field(ge=0.01, le=100)] | None = None
    logit_bias: dict[str, Annotated[FiniteFloat, Field(ge=-100, le=100)]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16, fail_fast=True)] | None = (
        None
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=256, fail_fast=True)] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    response_format: ResponseFormat | None = None
    cache_salt: Annotated[str, Field(max_length=256)] | None = None
    return_token_ids: bool | None = None
    kv_transfer_params: dict[str, Any] | None = None
    steelyard: SteelyardOptions | None = None

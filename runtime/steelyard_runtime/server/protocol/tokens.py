"""`POST /tokenize` and `POST /detokenize`, in vLLM's shapes."""

from typing import Annotated, Any

from pydantic import Field

from steelyard_runtime.server.protocol.chat import Message, Tool
from steelyard_runtime.server.protocol.generation import RequestModel, TokenIdList


class TokenizeRequest(RequestModel):
    """Text (`prompt`) or a conversation (`messages`) to token ids; exactly one of them."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(RequestModel):
    """Token ids to text."""

    model: str | None = None
    tokens: TokenIdList


class AdminDrainRequest(RequestModel):
    """`POST /drain`."""

    epoch: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    deadlineSeconds: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None  # noqa: N815  # the wire name of the admin API


class AdminRoleRequest(RequestModel):
    """`POST /role`."""

    role: str
    epoch: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None

"""`POST /v1/chat/completions`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from steelyard_runtime.server.protocol.generation import GenerationRequest, RequestModel

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class ContentPart(RequestModel):
    """One part of a content list; only text is supported."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(RequestModel):
    """The function of an earlier tool call; `arguments` is a JSON text."""

    name: str
    arguments: str | None = None


class ToolCall(RequestModel):
    """A tool call in an earlier assistant message."""

    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunction


class Message(RequestModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Function(RequestModel):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class ChosenFunction(RequestModel):
    """The function of a named `tool_choice`."""

    name: str


class NamedToolChoice(RequestModel):
    """`tool_choice` that names one function."""

    type: Literal["function"]
    function: ChosenFunction


class ChatRequest(GenerationRequest):
    """A chat completion."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None

"""From a `/v1/chat/completions` body to a generation and its answer."""

import hashlib
from typing import Any

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.chat_answer import ChatAnswer
from steelyard_runtime.server.chat_deltas import ChoiceDeltas
from steelyard_runtime.server.conversations import render_conversation
from steelyard_runtime.server.preparing import Preparation
from steelyard_runtime.server.protocol.chat import ChatRequest, NamedToolChoice, Tool
from steelyard_runtime.server.sampling_fields import response_grammar
from steelyard_runtime.server.served_model import Worker
from steelyard_runtime.server.serving import Prepared
from steelyard_runtime.tokenization.parsers.base import CallIds, OutputParser
from steelyard_runtime.tokenization.parsers.harmony import HarmonyParser
from steelyard_runtime.tokenization.parsers.registry import (
    guided_call_parser,
    reasoning_parser,
    tool_call_parser,
)
from steelyard_runtime.tokenization.tool_grammar import named_call_grammar, required_call_grammar


async def prepare_chat(worker: Worker, body: ChatRequest, request_id: str) -> Prepared:
    """Return what to run.

    Raises:
        RequestError: the request cannot be served.
    """
    preparation = Preparation(worker, body, request_id)
    preparation.check_number(1)
    shown_tools = None if body.tool_choice == "none" else body.tools
    rendered = await render_conversation(
        preparation.text,
        body.messages,
        tools=shown_tools,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        variables=_variables(body),
    )
    logprobs = None if preparation.export_kv else _logprobs(body)
    generation = preparation.generation(
        [rendered.token_ids],
        asked_tokens=_asked_tokens(body),
        default_tokens=None,
        logprobs=logprobs,
        prompt_logprobs=None,
        grammar=None if preparation.export_kv else _grammar(body),
    )
    named = isinstance(body.tool_choice, NamedToolChoice)
    choices = [
        ChoiceDeltas(
            _parser(worker, body, rendered.text, _CallIds(request_id, index)),
            calls_are_asked_for=named,
        )
        for index in range(preparation.n)
    ]
    answer = ChatAnswer(
        preparation.options("chatcmpl"),
        preparation.text.tokenizer,
        rendered.token_ids,
        choices,
        logprobs=logprobs is not None,
    )
    return Prepared(generation, answer, worker.threads)


class _CallIds:
    """Ids of a choice's calls; the same again where another worker goes on with the answer."""

    def __init__(self, request_id: str, choice: int) -> None:
        self._seed = f"{request_id}/{choice}"

    def __call__(self, index: int) -> str:
        digest = hashlib.sha256(f"{self._seed}/{index}".encode()).hexdigest()
        return f"call_{digest[:24]}"


def _variables(body: ChatRequest) -> dict[str, Any]:
    variables = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", body.reasoning_effort)
    return variables


def _asked_tokens(body: ChatRequest) -> int | None:
    newer, older = body.max_completion_tokens, body.max_tokens
    return newer if newer is not None else older


def _logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise RequestError(
            "`top_logprobs` may only be set when `logprobs` is true", param="top_logprobs"
        )
    return (body.top_logprobs or 0) if body.logprobs else None


def _grammar(body: ChatRequest) -> Grammar | None:
    choice = body.tool_choice
    wanted = response_grammar(body.response_format)
    if choice is None or choice in ("none", "auto"):
        return wanted
    if wanted is not None:
        raise RequestError(
            "`response_format` may not be set when `tool_choice` forces a call",
            param="response_format",
        )
    tools = _plain(body.tools)
    if isinstance(choice, NamedToolChoice):
        return named_call_grammar(tools, choice.function.name)
    return required_call_grammar(tools, parallel=body.parallel_tool_calls is not False)


def _plain(tools: list[Tool] | None) -> list[dict[str, Any]]:
    return [tool.model_dump(exclude_none=True) for tool in tools or ()]


def _parser(
    worker: Worker, body: ChatRequest, prompt: str, call_ids: CallIds
) -> OutputParser | None:
    settings, choice = worker.settings, body.tool_choice
    parser: OutputParser | None = None
    if isinstance(choice, NamedToolChoice):
        return guided_call_parser(choice.function.name, call_ids)
    if choice == "required":
        return guided_call_parser(None, call_ids)
    calls = bool(body.tools) and choice != "none"
    if worker.loaded_text().tokenizer.speaks_harmony:
        return HarmonyParser(call_ids if calls else None)
    if calls:
        parser = tool_call_parser(settings.tool_call_parser, call_ids)
    if settings.reasoning_parser is None:
        return parser
    return reasoning_parser(settings.reasoning_parser, prompt, parser)

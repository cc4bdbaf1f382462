"""What a client may send: a JSON object of known fields.

Values are the workers' business, except for the few that the router itself depends on.
"""

import difflib
from dataclasses import dataclass
from typing import Any

import orjson

from steelyard_runtime.body_limits import check_bytes, check_values
from steelyard_runtime.errors import RequestError

# OpenAI's fields of both APIs, then those of docs/contract.md, section 2.
_SHARED = """
frequency_penalty logit_bias logprobs max_tokens metadata model n presence_penalty prompt_cache_key
response_format safety_identifier seed service_tier stop store stream stream_options temperature
top_p user
add_special_tokens cache_salt ignore_eos include_stop_str_in_output min_p min_tokens
repetition_penalty return_token_ids skip_special_tokens steelyard stop_token_ids top_k
"""
_COMPLETION = "best_of echo prompt suffix"
_CHAT = """
audio function_call functions max_completion_tokens messages modalities parallel_tool_calls
prediction reasoning_effort tool_choice tools top_logprobs verbosity web_search_options
add_generation_prompt chat_template_kwargs continue_final_message include_reasoning
"""
COMPLETION_FIELDS = frozenset(_SHARED.split()) | frozenset(_COMPLETION.split())
CHAT_FIELDS = frozenset(_SHARED.split()) | frozenset(_CHAT.split())
ALLOWED_FIELDS = {
    "/v1/completions": COMPLETION_FIELDS,
    "/v1/chat/completions": CHAT_FIELDS,
}
_LARGE_BYTES = 16 * 1024  # fewer cannot be many values; workers look at those as well
# Between router and workers only: a client could name a host to pull from.
INTERNAL_FIELDS = ("kv_transfer_params", "steelyard")


@dataclass(frozen=True, slots=True)
class CheckedBody:
    """A request that may be sent on, and the fields that the router acts on."""

    fields: dict[str, Any]
    stream: bool
    choices: int  # n, times the number of prompts
    wants_token_ids: bool
    wants_usage: bool  # at the end of a stream


def check_body(raw: bytes, path: str, served_model_name: str) -> CheckedBody:
    """Parse and check the body of a chat or completion request.

    Raises:
        RequestError: 400 or 404 in the terms of the offending field.
    """
    large = len(raw) > _LARGE_BYTES
    if large:
        check_bytes(raw)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RequestError(
            f"The body must be JSON: {error.msg} at character {error.pos}.", code="invalid_json"
        ) from None
    if not isinstance(body, dict):
        raise RequestError(f"The body must be a JSON object, got {json_type(body)}.")
    _check_names(body, ALLOWED_FIELDS[path])
    if large:
        check_values(raw, body)
    _check_model(body, served_model_name)
    for name in ("stream", "return_token_ids"):
        if not isinstance(body.get(name), bool | None):
            raise RequestError(
                f"`{name}` must be true or false, got {json_type(body[name])}.", param=name
            )
    count = body.get("n")
    if count is not None and (type(count) is not int or count < 1):
        raise RequestError(f"`n` must be an integer of at least 1, got {_shown(count)}.", param="n")
    seed = body.get("seed")
    if seed is not None and type(seed) is not int:
        raise RequestError(f"`seed` must be an integer, got {json_type(seed)}.", param="seed")
    options = body.get("stream_options")
    return CheckedBody(
        fields=body,
        stream=bool(body.get("stream")),
        choices=(count or 1) * _prompts(body.get("prompt")),
        wants_token_ids=bool(body.get("return_token_ids")),
        wants_usage=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def _check_names(body: dict[str, Any], allowed: frozenset[str]) -> None:
    if not body.keys() <= allowed:
        name = next(name for name in body if name not in allowed)
        if name in INTERNAL_FIELDS:
            raise _internal(name)
        shown = name[:64]  # Matching takes quadratic time.
        near = difflib.get_close_matches(shown, sorted(allowed), n=1, cutoff=0.0)
        raise RequestError(
            f"Unknown field `{shown}`; the nearest allowed one is `{near[0]}`.",
            param=shown,
            code="unknown_field",
        )
    # Reading one's own chunk times reveals and moves nothing; the rest is between the processes.
    if "steelyard" in body:
        options = body["steelyard"]
        if not isinstance(options, dict) or options.keys() != {"timing"}:
            raise _internal("steelyard")


def _internal(name: str) -> RequestError:
    return RequestError(
        f"`{name}` may not be set by clients; it is used between router and workers.", param=name
    )


def _check_model(body: dict[str, Any], served_model_name: str) -> None:
    model = body.get("model")
    if model is None:
        return
    if not isinstance(model, str):
        raise RequestError(f"`model` must be a string, got {json_type(model)}.", param="model")
    if model != served_model_name:
        raise RequestError(
            f"The model `{model[:128]}` does not exist; this service serves `{served_model_name}`.",
            status=404,
            param="model",
            code="model_not_found",
        )


def _prompts(prompt: Any) -> int:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return len(prompt)
    return 1


def json_type(value: Any) -> str:
    """Name a JSON value's type for people."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def _shown(value: Any) -> str:
    return str(value) if type(value) is int else json_type(value)

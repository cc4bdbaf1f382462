"""Brings chat messages into the form that a template expects.

Content parts become text, tool-call arguments objects, roles the template's own. What a template
expects is decided by `TemplateTraits`; the HTTP schema has already checked the outer types.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steelyard_runtime.errors import RequestError
from steelyard_runtime.tokenization import tool_prompt

Message = dict[str, Any]

# The names under which templates look for an earlier turn's reasoning.
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a template can do by itself; the rest is put into the messages as text."""

    content_parts: bool = False  # wants lists of parts where others want text
    developer_role: bool = False
    tools: bool = False
    tool_calls: bool = False
    tool_role: bool = False


def normalize_messages(
    messages: Sequence[Mapping[str, Any]],
    traits: TemplateTraits,
    tools: Sequence[Mapping[str, Any]] | None,
) -> list[Message]:
    """Return the messages as the template takes them.

    Raises:
        RequestError: a message has no role, content that is no text, or damaged tool calls (400).
    """
    normal = [_normalize(message, f"messages[{i}]", traits) for i, message in enumerate(messages)]
    if not traits.tool_role:
        normal = _merge_tool_responses(normal)
    if tools and not traits.tools:
        normal = _with_tool_description(normal, tools)
    if traits.content_parts:
        for message in normal:
            message["content"] = [{"type": "text", "text": message["content"]}]
    return normal


def _normalize(message: Mapping[str, Any], where: str, traits: TemplateTraits) -> Message:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RequestError(f"{where}.role: must be a string", param=f"{where}.role")
    normal: Message = {key: value for key, value in message.items() if value is not None}
    normal["content"] = _text_of(message.get("content"), f"{where}.content")
    reasoning = next((normal[name] for name in _REASONING_FIELDS if name in normal), None)
    if reasoning is not None:
        normal |= {"reasoning_content": reasoning, "thinking": reasoning}
    if role == "developer" and not traits.developer_role:
        normal["role"] = "system"
    if role == "function":  # the name of `tool` before 2024
        normal["role"] = "tool"
    calls = _tool_calls_of(message.get("tool_calls"), f"{where}.tool_calls")
    normal.pop("tool_calls", None)
    if calls and traits.tool_calls:
        normal["tool_calls"] = calls
    elif calls:
        normal["content"] = tool_prompt.calls_text(normal["content"], calls)
    return normal


def _text_of(content: Any, where: str) -> str:
    """Return the text of a content field; parts are joined by line ends, as in vLLM."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RequestError(f"{where}: must be a string or a list of parts", param=where)
    texts: list[str] = []
    for i, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        field = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
        text = part.get(field) if field is not None else None
        if field is None:
            raise RequestError(
                f"{where}[{i}].type: is {str(kind)[:40]!r}; only 'text' is supported by this model",
                param=f"{where}[{i}].type",
            )
        if not isinstance(text, str):
            raise RequestError(
                f"{where}[{i}].{field}: must be a string", param=f"{where}[{i}].{field}"
            )
        texts.append(text)
    return "\n".join(texts)


def _tool_calls_of(calls: Any, where: str) -> list[dict[str, Any]]:
    """Return the calls with their arguments as objects, which templates write out themselves."""
    if not calls:
        return []
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise RequestError(f"{where}: must be a list", param=where)
    normal: list[dict[str, Any]] = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RequestError(
                f"{where}[{i}].function: must be an object with a name",
                param=f"{where}[{i}].function",
            )
        arguments = _arguments_of(function.get("arguments"), f"{where}[{i}].function.arguments")
        normal.append(
            {
                **{key: value for key, value in call.items() if value is not None},
                "type": "function",
                "function": {"name": function["name"], "arguments": arguments},
            }
        )
    return normal


def _arguments_of(arguments: Any, where: str) -> dict[str, Any]:
    if not arguments:
        return {}
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping):
        raise RequestError(f"{where}: must be a string that holds a JSON object", param=where)
    return dict(value)


def _merge_tool_responses(messages: list[Message]) -> list[Message]:
    """Turn runs of `tool` messages into one user message each."""
    merged: list[Message] = []
    in_run = False
    for message in messages:
        if message["role"] != "tool":
            merged.append(message)
            in_run = False
            continue
        text = tool_prompt.response_text(message["content"])
        if in_run:
            merged[-1]["content"] += "\n" + text
        else:
            merged.append({"role": "user", "content": text})
            in_run = True
    return merged


def _with_tool_description(
    messages: list[Message], tools: Sequence[Mapping[str, Any]]
) -> list[Message]:
    description = tool_prompt.description_text(tools)
    if not messages or messages[0]["role"] not in ("system", "developer"):
        return [{"role": "system", "content": description}, *messages]
    first = dict(messages[0])
    first["content"] = f"{first['content']}\n\n{description}" if first["content"] else description
    return [first, *messages[1:]]

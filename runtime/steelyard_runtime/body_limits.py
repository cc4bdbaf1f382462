"""How much a body may hold, decided before anything expensive is done with it.

The bytes are counted first, which takes a hundredth of a second for 10 MiB: what a parser makes of
`[],[],[],…` is a hundred times as large, and it holds Python's lock until it is done. Then the
members with a known place are counted, before pydantic looks at each of them.
"""

from collections.abc import Iterator, Sized
from typing import Any

from steelyard_runtime.errors import RequestError

# Objects are expensive, so the marks that make them are counted: 250,000 take 0.1 s to parse.
MAX_BRACKETS = 250_000
MAX_COLONS = 200_000
MAX_COMMAS = 1_250_000
MAX_TEXTS = 250_000
# Pydantic, orjson and the template's filters give up at depths of their own between 254 and 1000.
MAX_DEPTH = 100

MAX_MEMBERS = 256
MAX_MESSAGES = 16_384
MAX_CONTENT_PARTS = 16_384
MAX_TOOL_CALLS = 16_384
MAX_TOOLS = 128
MAX_TOKEN_IDS = 1_048_576
MAX_PROMPTS = 2048
MAX_LOGIT_BIAS = 4096
# Objects and arrays in a field whose content is the client's own: schemas and template variables.
MAX_FREE_VALUES = 32_768


def check_bytes(body: bytes) -> None:
    """Refuse a body whose JSON would be too many values.

    Raises:
        RequestError: 400.
    """
    marks = body
    if _too_many(marks) is not None:
        # Marks within texts make nothing: a long prompt may be JSON or source code itself.
        marks = body.replace(b"\\\\", b"").replace(b'\\"', b"")
        quotes = marks.count(b'"')
        if quotes > 2 * MAX_TEXTS:
            raise _too_complex("texts", quotes // 2, MAX_TEXTS)
        marks = b"".join(marks.split(b'"')[::2])
    found = _too_many(marks)
    if found is not None:
        raise found


def _too_many(marks: bytes) -> RequestError | None:
    counted = (
        ("objects and arrays", marks.count(b"[") + marks.count(b"{"), MAX_BRACKETS),
        ("members of objects", marks.count(b":"), MAX_COLONS),
        ("commas", marks.count(b","), MAX_COMMAS),
    )
    for what, number, at_most in counted:
        if number > at_most:
            return _too_complex(what, number, at_most)
    return None


def _too_complex(what: str, number: int, at_most: int) -> RequestError:
    return RequestError(
        f"the body may have at most {at_most} {what}, got {number}", code="body_too_complex"
    )


def check_values(body: bytes, value: Any) -> None:
    """Refuse a parsed body that is nested too deeply or has too many members.

    Raises:
        RequestError: 400; names the field.
    """
    # A body with few brackets cannot be deep, and most have few.
    if not isinstance(value, dict):
        return
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value)
        for name in ("tools", "response_format", "chat_template_kwargs"):
            _check_free_values(name, value.get(name))
    _at_most("the body", value, MAX_MEMBERS, "members")
    for name, (at_most, what) in _LENGTHS.items():
        _at_most(f"`{name}`", value.get(name), at_most, what, name)
    _check_messages(value.get("messages"))
    _check_prompt(value.get("prompt"))
    own = value.get("steelyard")
    if isinstance(own, dict):
        name = "steelyard.resume_token_ids"
        _at_most(f"`{name}`", own.get("resume_token_ids"), MAX_TOKEN_IDS, "token ids", name)


_LENGTHS = {
    "messages": (MAX_MESSAGES, "messages"),
    "tools": (MAX_TOOLS, "tools"),
    "tokens": (MAX_TOKEN_IDS, "token ids"),
    "logit_bias": (MAX_LOGIT_BIAS, "token ids"),
    "kv_transfer_params": (MAX_MEMBERS, "members"),
}


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        return
    parts = calls = 0
    for message in messages:
        if isinstance(message, dict):
            parts += _length(message.get("content"))
            calls += _length(message.get("tool_calls"))
    for number, at_most, what in (
        (parts, MAX_CONTENT_PARTS, "content parts"),
        (calls, MAX_TOOL_CALLS, "tool calls"),
    ):
        if number > at_most:
            raise RequestError(
                f"`messages` may have at most {at_most} {what}, got {number}", param="messages"
            )


def _check_prompt(prompt: Any) -> None:
    if not isinstance(prompt, list) or not prompt:
        return
    if not isinstance(prompt[0], int):
        _at_most("`prompt`", prompt, MAX_PROMPTS, "prompts", "prompt")
    number = len(prompt) + sum(map(_length, prompt[:MAX_PROMPTS]))
    if number > MAX_TOKEN_IDS:
        raise RequestError(
            f"`prompt` may have at most {MAX_TOKEN_IDS} token ids, got {number}", param="prompt"
        )


def _at_most(name: str, value: Any, at_most: int, what: str, param: str | None = None) -> None:
    if isinstance(value, Sized) and not isinstance(value, str) and len(value) > at_most:
        raise RequestError(
            f"{name} may have at most {at_most} {what}, got {len(value)}", param=param
        )


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _check_depth(value: Any) -> None:
    for depth, _ in enumerate(_levels(value), 1):
        if depth > MAX_DEPTH:
            raise RequestError(
                f"the body may be nested at most {MAX_DEPTH} deep", code="body_too_complex"
            )


def _check_free_values(name: str, value: Any) -> None:
    number = 0
    for level in _levels(value):
        number += len(level)
        if number > MAX_FREE_VALUES:
            raise RequestError(
                f"`{name}` may have at most {MAX_FREE_VALUES} objects and arrays",
                param=name,
                code="body_too_complex",
            )


def _levels(value: Any) -> Iterator[list[Any]]:
    """Yield the objects and arrays by depth: no recursion, and each is seen once."""
    level = [value] if isinstance(value, dict | list) else []
    while level:
        yield level
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]

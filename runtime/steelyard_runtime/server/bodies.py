"""From the bytes of a request to a validated model.

The body is limited while it is read, also when it comes in chunks without a length. JSON is read
by a strict parser first: no NaN, no lone surrogates, no invalid UTF-8, bounded depth.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.protocol.generation import RequestModel

ModelType = TypeVar("ModelType", bound=RequestModel)

# A client that gets its answer while it still sends sees a broken connection instead of the answer.
DISCARD_SECONDS = 1.0
SHOWN_CHARACTERS = 60

_SHOULD = re.compile(r"^\w+ should")

# Unions would be told as one error a member; these say it in one sentence.
SENTENCES = {
    "prompt": "must be a text, an array of texts, an array of token ids from 0 to 2147483647, or "
    "an array of such arrays, none of them empty arrays",
    "stop": "must be a text or an array of at most 16 texts of 1 to 1000 characters",
    "tool_choice": "must be 'none', 'auto', 'required' or an object "
    '{"type": "function", "function": {"name": NAME}}',
    "content": "must be a text, null or an array of content parts",
}


async def read_model(
    request: Request,
    model: type[ModelType],
    limit_bytes: int,
    on_ignored: Callable[[str], None],
) -> ModelType:
    """Read, parse and validate the body; `on_ignored` hears of each unknown field.

    Raises:
        RequestError: 400, 413 or 415.
    """
    _require_json(request)
    parsed = validate(parse_json(await read_body(request, limit_bytes)), model)
    for name in parsed.model_extra or ():
        on_ignored(name)
    return parsed


def validate(value: Any, model: type[ModelType]) -> ModelType:
    """Return `value` as a model.

    Raises:
        RequestError: 400, one sentence on the first field that is wrong.
    """
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _sentence(error.errors(include_url=False)) from None


def parse_json(body: bytes) -> Any:
    """Parse strictly.

    Raises:
        RequestError: the body is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}", code="invalid_json") from None


def encode_json(value: Any, field: str) -> str:
    """Return the JSON text of a value that a client sent.

    Raises:
        RequestError: it is nested too deeply.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise RequestError(f"`{field}` must not be nested so deeply", param=field) from None


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Return the body.

    Raises:
        RequestError: 413, it is longer than `limit_bytes`.
        ClientDisconnect: the client went away while sending.
    """
    declared = request.headers.get("content-length", "")
    too_long = declared.isdecimal() and int(declared[:20]) > limit_bytes
    if too_long and request.headers.get("expect", "").lower() == "100-continue":
        raise _too_large(limit_bytes)
    parts: list[bytes] = []
    size = 0
    if not too_long:
        async for part in request.stream():
            size += len(part)
            if size > limit_bytes:
                too_long = True
                break
            parts.append(part)
    if too_long:
        parts.clear()
        await _discard(request)
        raise _too_large(limit_bytes)
    return b"".join(parts)


def _too_large(limit_bytes: int) -> RequestError:
    return RequestError(
        f"the body may have at most {limit_bytes} bytes", status=413, code="body_too_large"
    )


async def _discard(request: Request) -> None:
    deadline = time.monotonic() + DISCARD_SECONDS
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while time.monotonic() < deadline:
                message = await request.receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except (TimeoutError, ClientDisconnect):
        return


def _require_json(request: Request) -> None:
    given = request.headers.get("content-type", "")
    essence = given.split(";", 1)[0].strip().lower()
    if essence == "application/json" or (
        essence.startswith("application/") and essence.endswith("+json")
    ):
        return
    raise RequestError(
        f"`Content-Type` must be application/json, got '{given[:SHOWN_CHARACTERS]}'",
        status=415,
        code="unsupported_media_type",
    )


def _sentence(errors: list[ErrorDetails]) -> RequestError:
    first = errors[0]
    names = [str(part) for part in first["loc"]]
    for depth, name in enumerate(names):
        if name in SENTENCES and first["type"] != "missing":
            path = ".".join(names[: depth + 1])
            return RequestError(f"`{path}` {SENTENCES[name]}", param=path)
    path = ".".join(names) or "body"
    if first["type"] == "missing":
        return RequestError(f"`{path}` is required", param=path, code="missing_required_parameter")
    message = _SHOULD.sub("must", first["msg"], count=1).replace(" after validation", "")
    shown = _shown(first["input"])
    return RequestError(f"`{path}` {message}, got {shown}", param=path)


def _shown(value: Any) -> str:
    """Return a short form of a wrong value; texts can be prompts, which stay out of messages."""
    if isinstance(value, str):
        return f"a text of {len(value)} characters" if len(value) > 32 else f"'{value}'"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else f"an array of {len(value)}"
    return orjson.dumps(value).decode()[:SHOWN_CHARACTERS]

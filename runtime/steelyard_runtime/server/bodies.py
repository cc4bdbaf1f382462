"""From the bytes of a request to a validated model.

The body is limited while it is read, also when it comes in chunks without a length. JSON is read
by a strict parser first: no NaN, no lone surrogates, no invalid UTF-8. How much it may hold is
decided in `body_limits.py`. Long bodies are read in a thread.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from steelyard_runtime.body_limits import check_bytes, check_values
from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.protocol.generation import RequestModel
from steelyard_runtime.server.work_threads import WorkThreads

ModelType = TypeVar("ModelType", bound=RequestModel)

# A client that gets its answer while it still sends sees a broken connection instead of the answer.
DISCARD_SECONDS = 1.0
SHOWN_CHARACTERS = 60
# Validating this number of bytes takes about 2 ms.
INLINE_BYTES = 16 * 1024
# Bodies that are held at once, as a multiple of the longest that is allowed. Short ones do not
# count, so that they are served while others send long ones slowly.
HELD_BODIES = 16
SHORT_BYTES = 64 * 1024

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


class BodyReader:
    """Reads the bodies of one port, which share a bound on the bytes that are held."""

    def __init__(
        self, limit_bytes: int, on_ignored: Callable[[str], None], threads: WorkThreads
    ) -> None:
        """Keep the bounds; `on_ignored` hears of each unknown field."""
        self._limit_bytes = limit_bytes
        self._on_ignored = on_ignored
        self._threads = threads
        self.free_bytes = HELD_BODIES * limit_bytes

    @asynccontextmanager
    async def read(self, request: Request, model: type[ModelType]) -> AsyncIterator[ModelType]:
        """Read, parse and validate a body, which counts as held until the context is left.

        Raises:
            RequestError: 400, 413 or 415; 503 while too many long bodies are held.
        """
        require_json(request)
        held_bytes = 0

        def hold(num_bytes: int) -> None:
            nonlocal held_bytes
            wanted = num_bytes - held_bytes if num_bytes > SHORT_BYTES else 0
            if wanted > self.free_bytes:
                raise RequestError(
                    "too many long bodies are held at once; the request may be sent again",
                    status=503,
                    code="too_many_long_bodies",
                    kind="server_error",
                    retry_after_seconds=1,
                )
            self.free_bytes -= wanted
            held_bytes += wanted

        try:
            parsed = await self._parse(await read_body(request, self._limit_bytes, hold), model)
            for name in parsed.model_extra or ():
                self._on_ignored(name)
            yield parsed
        finally:
            self.free_bytes += held_bytes

    async def _parse(self, body: bytes, model: type[ModelType]) -> ModelType:
        return await self._threads.run(
            len(body), lambda: validate(parse_json(body), model), INLINE_BYTES
        )


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
        RequestError: the body is not JSON, or holds too much.
    """
    check_bytes(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}", code="invalid_json") from None
    check_values(body, value)
    return value


def encode_json(value: Any, field: str) -> str:
    """Return the JSON text of a value that a client sent.

    Raises:
        RequestError: it is nested too deeply.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise RequestError(f"`{field}` must not be nested so deeply", param=field) from None


async def read_body(
    request: Request, limit_bytes: int, hold: Callable[[int], None] = lambda num_bytes: None
) -> bytes:
    """Return the body; `hold` hears how long it has become and may refuse it.

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
            hold(size)
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


def require_json(request: Request) -> None:
    """Refuse what is not said to be JSON.

    Raises:
        RequestError: 415.
    """
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

"""Errors on the wire: one shape, OpenAI's, for every path, status and moment.

Also midway through a stream, where the status is long sent: there the same object is an event.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from starlette.responses import Response

from steelyard_runtime.errors import ENDS_PROCESS, EngineDeadError, RequestError

Result = TypeVar("Result")

log = logging.getLogger(__name__)

LONGEST_MESSAGE = 1000
KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def as_request_error(error: BaseException) -> RequestError:
    """Return what a client is told about `error`; unknown ones say nothing of the inside."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EngineDeadError):
        return RequestError(
            "the engine process ended; the request may be sent again",
            status=503,
            code="engine_dead",
            kind="server_error",
            retry_after_seconds=5,
        )
    return RequestError(
        "the server failed on this request; its log has the details under the request id",
        status=500,
        code="internal_error",
        kind="server_error",
    )


def made(what: str, work: Callable[..., Result], *arguments: Any) -> Result:
    """Return what `work` returns.

    Args:
        what: the work, as a client knows it.
        work: makes a part of one request's answer.
        arguments: of `work`.

    Raises:
        RequestError: 500, it failed; the cause is in the log. A panic of a native library, which is
            no `Exception`, is a failure, too.
    """
    try:
        return work(*arguments)
    except (*ENDS_PROCESS, asyncio.CancelledError, RequestError):
        raise
    except BaseException as error:
        log.error("%s failed", what, exc_info=error)
        raise RequestError(
            f"{what} failed on this request ({type(error).__name__}); the server's log has the "
            "details under the request id",
            status=500,
            code="answer_failed",
            kind="server_error",
        ) from None


def one_line(text: str) -> str:
    """Return a text that may quote a client: control characters and line ends as escapes."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def error_body(error: RequestError) -> bytes:
    """Return the JSON body `{"error": {...}}`."""
    kind = error.kind
    if kind == "invalid_request_error":
        kind = "server_error" if error.status >= 500 else KINDS.get(error.status, kind)
    detail: dict[str, Any] = {
        "message": one_line(error.message)[:LONGEST_MESSAGE],
        "type": kind,
        "param": error.param,
        "code": error.code,
    }
    return orjson.dumps({"error": detail})


def error_response(error: RequestError, headers: dict[str, str] | None = None) -> Response:
    """Return the response; 429 and 503 say when to come again."""
    more = dict(headers or {})
    if error.retry_after_seconds is not None:
        more["retry-after"] = str(error.retry_after_seconds)
    elif error.status in (429, 503):
        more["retry-after"] = "1"
    return Response(error_body(error), error.status, more, media_type="application/json")

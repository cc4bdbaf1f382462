"""Errors on the wire: one shape, OpenAI's, for every path, status and moment.

Also midway through a stream, where the status is long sent: there the same object is an event.
"""

from typing import Any

import orjson
from starlette.responses import Response

from steelyard_runtime.errors import EngineDeadError, RequestError

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def as_request_error(error: Exception) -> RequestError:
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


def error_body(error: RequestError) -> bytes:
    """Return the JSON body `{"error": {...}}`."""
    kind = error.kind
    if kind == "invalid_request_error":
        kind = "server_error" if error.status >= 500 else KINDS.get(error.status, kind)
    detail: dict[str, Any] = {
        "message": error.message,
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

"""Starlette's own errors in OpenAI's shape: unknown paths and methods, and ours."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from steelyard_runtime.errors import EngineDeadError, RequestError
from steelyard_runtime.server.failures import as_request_error, error_response

SUPPORTED = (
    "POST /v1/completions, POST /v1/chat/completions, GET /v1/models, GET /v1/models/{name}, "
    "POST /tokenize, POST /detokenize, GET /version, GET /health, GET /ready, GET /metrics, "
    "GET /openapi.json"
)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an unknown path (404) or method (405)."""
    assert isinstance(error, HTTPException)
    # Not `request.url`, which a damaged `Host` makes an exception of.
    path = request.scope["path"][:200]
    message = str(error.detail)
    code = None
    if error.status_code == 404:
        message, code = f"'{path}' is not supported; supported: {SUPPORTED}", "unknown_path"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.method} is not allowed on '{path}'; allowed: {allowed}"
        code = "method_not_allowed"
    failure = RequestError(message, status=error.status_code, code=code)
    return error_response(failure, dict(error.headers or {}))


async def on_request_error(request: Request, error: Exception) -> Response:
    """Answer one of our own errors."""
    failure = as_request_error(error)
    # The rest of a refused body is not read, so the connection cannot be used again.
    headers = {"connection": "close"} if failure.status == 413 else {}
    return error_response(failure, headers)


async def on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody reads this answer; the log line shows the status that nginx made common."""
    return Response(status_code=499)


Handler = Callable[[Request, Exception], Awaitable[Response]]
HANDLERS: Mapping[Any, Handler] = {
    HTTPException: on_http_exception,
    RequestError: on_request_error,
    EngineDeadError: on_request_error,
    ClientDisconnect: on_disconnect,
}

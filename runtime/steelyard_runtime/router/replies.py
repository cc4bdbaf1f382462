"""Answers that the router itself gives: JSON, and errors in OpenAI's shape."""

from typing import Any

import orjson
from aiohttp import web

from steelyard_runtime.errors import RequestError


def json_reply(document: Any, status: int = 200) -> web.Response:
    """Return a JSON answer."""
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


def error_document(error: RequestError) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
    }


def error_reply(error: RequestError) -> web.Response:
    """Return the answer to a request that failed before its first byte."""
    reply = json_reply(error_document(error), error.status)
    if error.retry_after_seconds is not None:
        reply.headers["Retry-After"] = str(error.retry_after_seconds)
    if error.status == 401:
        reply.headers["WWW-Authenticate"] = "Bearer"
    return reply


def error_event(document: dict[str, Any]) -> bytes:
    """Return the end of a stream that failed after its first byte."""
    return b"data: " + orjson.dumps(document) + b"\n\ndata: [DONE]\n\n"

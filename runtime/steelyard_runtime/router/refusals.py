"""What a client gets when its workers refuse or fail: their sentence if it is one, else ours."""

from typing import Any

import orjson
from aiohttp import web

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.replies import json_reply
from steelyard_runtime.router.upstream import (
    WorkerBusyError,
    WorkerFailedError,
    WorkerRefusedError,
)


def refusal(error: WorkerRefusedError) -> web.Response:
    """Return a worker's refusal as the answer to the client."""
    return json_reply(refusal_document(error), error.status)


def refusal_document(error: WorkerRefusedError) -> dict[str, Any]:
    """Return a worker's refusal in OpenAI's shape, whatever the worker sent.

    A page or a script of a worker whose image is not ours must not reach a browser as such.
    """
    try:
        document = orjson.loads(error.body)
        if isinstance(document, dict) and "error" in document:
            orjson.dumps(document)  # It may be nested more deeply than can be written.
            return document
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        pass
    return {
        "error": {
            "message": f"A worker refused the request with status {error.status}.",
            "type": "invalid_request_error",
            "param": None,
            "code": "refused",
        }
    }


def reason(error: Exception) -> str:
    """Name what went wrong with an attempt, for counters and sentences."""
    if isinstance(error, WorkerFailedError):
        return error.reason
    return "busy" if isinstance(error, WorkerBusyError) else "stalled"


def lost() -> RequestError:
    """Return the error of a stream that cannot go on."""
    return RequestError(
        "The worker was lost in the middle of this answer, and it sent no token ids from which "
        "another could go on.",
        status=502,
        code="stream_lost",
        kind="server_error",
    )

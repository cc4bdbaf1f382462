"""`/openapi.json`: FastAPI's document plus the request bodies, which our own code validates."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from steelyard_runtime.server.protocol.chat import ChatRequest
from steelyard_runtime.server.protocol.completions import CompletionRequest
from steelyard_runtime.server.protocol.generation import RequestModel
from steelyard_runtime.server.protocol.responses import ErrorResponse
from steelyard_runtime.server.protocol.tokens import DetokenizeRequest, TokenizeRequest

_REF = "#/components/schemas/{model}"
REQUESTS: tuple[type[RequestModel], ...] = (
    CompletionRequest,
    ChatRequest,
    TokenizeRequest,
    DetokenizeRequest,
)
_ERRORS = {
    400: "The request is wrong; the message names the field.",
    401: "The API key is missing or wrong.",
    404: "The model is unknown.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many requests wait; `Retry-After` says when to come again.",
    500: "The server failed.",
    503: "The worker loads, drains, or its engine ended.",
}


def request_body(model: type[RequestModel]) -> dict[str, Any]:
    """Return `openapi_extra` for an endpoint that takes `model`."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return `responses` for errors, all in one shape."""
    return {status: {"model": ErrorResponse, "description": _ERRORS[status]} for status in statuses}


GENERATION_ERRORS = error_responses(*_ERRORS)


def describe(app: FastAPI, *, needs_key: bool) -> None:
    """Make `app.openapi()` complete; with `needs_key` it tells of the bearer key."""
    make = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        document = make()
        _, requests = models_json_schema(
            [(model, "validation") for model in REQUESTS], ref_template=_REF
        )
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(requests["$defs"])
        if needs_key:
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        return document

    app.openapi = complete  # type: ignore[method-assign]  # FastAPI's documented way

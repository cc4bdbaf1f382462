"""The serving port: which endpoints there are. What they do is in the modules around."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from steelyard_runtime import __version__
from steelyard_runtime.core.roles import Phase
from steelyard_runtime.server.access import Access, Keys
from steelyard_runtime.server.error_handlers import HANDLERS
from steelyard_runtime.server.generation_endpoint import GenerationEndpoint
from steelyard_runtime.server.key_file import KeyFile
from steelyard_runtime.server.openapi import (
    GENERATION_ERRORS,
    describe,
    error_responses,
    request_body,
)
from steelyard_runtime.server.prepare_chat import prepare_chat
from steelyard_runtime.server.prepare_completion import prepare_completion
from steelyard_runtime.server.protocol.chat import ChatRequest
from steelyard_runtime.server.protocol.completions import CompletionRequest
from steelyard_runtime.server.protocol.responses import (
    ChatResponse,
    CompletionResponse,
    ModelCard,
    ModelList,
    StatusResponse,
    VersionResponse,
)
from steelyard_runtime.server.served_model import Worker
from steelyard_runtime.server.token_endpoints import add_token_endpoints
from steelyard_runtime.server.web_pages import WebPages

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# What the cluster and scrapers ask for, and what describes the port.
OPEN_PATHS = frozenset({"/health", "/ready", "/metrics", "/version", "/openapi.json"})
EVENT_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


def build_app(worker: Worker) -> ASGIApp:
    """Return the application of the serving port."""
    settings = worker.settings
    app = FastAPI(
        title="Steelyard worker",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=dict(HANDLERS),
    )
    describe(app, needs_key=bool(settings.api_keys))
    _add_generation(app, worker)
    add_token_endpoints(app, worker)
    _add_models(app, worker)
    _add_probes(app, worker)
    path = settings.api_key_file
    keys = Keys(settings.api_keys, KeyFile(path, settings.api_keys) if path is not None else None)
    pages = None if keys else WebPages(settings.host, settings.allowed_origins)
    guarded = Access(app, keys, _is_guarded, leaving=worker.state.leaving, pages=pages)
    if not settings.allowed_origins:
        return guarded
    return CORSMiddleware(
        guarded,
        allow_origins=list(settings.allowed_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id"],
    )


def _is_guarded(method: str, path: str) -> bool:
    # A browser's preflight request carries no key. What is new is guarded until it is listed here.
    return method != "OPTIONS" and path not in OPEN_PATHS


def _add_generation(app: FastAPI, worker: Worker) -> None:
    @app.post(
        "/v1/completions",
        response_class=Response,
        responses={
            200: {"model": CompletionResponse, "content": EVENT_STREAM},
            **GENERATION_ERRORS,
        },
        openapi_extra=request_body(CompletionRequest),
    )
    async def completions() -> Response:
        """Complete a prompt."""
        return GenerationEndpoint(worker, CompletionRequest, prepare_completion)

    @app.post(
        "/v1/chat/completions",
        response_class=Response,
        responses={200: {"model": ChatResponse, "content": EVENT_STREAM}, **GENERATION_ERRORS},
        openapi_extra=request_body(ChatRequest),
    )
    async def chat_completions() -> Response:
        """Answer a conversation."""
        return GenerationEndpoint(worker, ChatRequest, prepare_chat)


def _add_models(app: FastAPI, worker: Worker) -> None:
    started = int(worker.clock_seconds())

    def card() -> dict[str, Any]:
        return {
            "id": worker.settings.served_model_name,
            "object": "model",
            "created": started,
            "owned_by": "steelyard",
            "root": worker.settings.model,
            "parent": None,
            "max_model_len": worker.loaded_text().max_model_len,
        }

    @app.get(
        "/v1/models",
        response_class=JSONResponse,
        responses={200: {"model": ModelList}, **error_responses(401, 503)},
    )
    async def models() -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [card()]})

    @app.get(
        "/v1/models/{name:path}",  # names may have slashes
        response_class=JSONResponse,
        responses={200: {"model": ModelCard}, **error_responses(401, 404, 503)},
    )
    async def model(name: str) -> Response:
        """Describe the one model."""
        worker.check_model(name)
        return JSONResponse(card())

    @app.get("/version", response_class=JSONResponse, responses={200: {"model": VersionResponse}})
    async def version() -> Response:
        """Tell the version."""
        return JSONResponse({"version": __version__})


def _add_probes(app: FastAPI, worker: Worker) -> None:
    state = worker.state
    status: dict[int | str, dict[str, Any]] = {
        200: {"model": StatusResponse},
        503: {"model": StatusResponse, "description": "Not now; the phase says why."},
    }

    @app.get("/health", response_class=JSONResponse, responses=status)
    async def health() -> Response:
        """Tell whether the process works, also while it loads or drains."""
        phase = state.phase
        failed = phase is Phase.FAILED
        body = {"status": "failed" if failed else "ok", "phase": phase}
        return JSONResponse(body, 503 if failed else 200)

    @app.get("/ready", response_class=JSONResponse, responses=status)
    async def ready() -> Response:
        """Tell whether requests are taken."""
        phase = state.phase
        is_ready = phase is Phase.READY
        body = {"status": "ready" if is_ready else "not ready", "phase": phase}
        return JSONResponse(body, 200 if is_ready else 503)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics(request: Request) -> Response:
        """Return all series, fresh from the engine."""
        await state.refresh()
        return Response(state.metrics.render(), media_type=METRICS_TYPE)

"""The admin port: `/state`, `/drain` and `/role` (docs/contract.md section 3)."""

from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from steelyard_runtime.core.roles import Role
from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.access import Access, Keys
from steelyard_runtime.server.bodies import parse_json, read_body, require_json, validate
from steelyard_runtime.server.error_handlers import HANDLERS
from steelyard_runtime.server.protocol.generation import RequestModel
from steelyard_runtime.server.protocol.tokens import AdminDrainRequest, AdminRoleRequest
from steelyard_runtime.server.settings import ServerSettings
from steelyard_runtime.server.web_pages import WebPages
from steelyard_runtime.server.worker_state import WorkerState

MAX_BODY_BYTES = 64 * 1024
WANTED = "the service token that this worker was started with"


def build_admin_app(settings: ServerSettings, state: WorkerState) -> ASGIApp:
    """Return the application of the admin port."""
    is_open = not settings.service_token

    async def get_state(request: Request) -> Response:
        return JSONResponse(await state.refresh())

    async def post_drain(request: Request) -> Response:
        body = await _read(request, AdminDrainRequest, is_open)
        return JSONResponse(await state.drain(_given(body)), status_code=202)

    async def post_role(request: Request) -> Response:
        body = await _read(request, AdminRoleRequest, is_open)
        if body.role not in set(Role):
            names = ", ".join(Role)
            raise RequestError(
                f"`role` must be one of {names}, got '{body.role[:40]}'", param="role"
            )
        return JSONResponse(await state.change_role(_given(body)))

    routes = [
        Route("/state", get_state, methods=["GET"]),
        Route("/drain", post_drain, methods=["POST"]),
        Route("/role", post_role, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False
    if settings.is_exposed:
        return Access(app, _NoKey(), _guard_all, wanted=f"{WANTED}, of which it has none")
    keys = Keys([settings.service_token] if settings.service_token else [])
    pages = WebPages(settings.host, ()) if is_open else None
    return Access(app, keys, _guard_all, wanted=WANTED, pages=pages)


def _guard_all(method: str, path: str) -> bool:
    return True


class _NoKey(Keys):
    """Refuses everybody: no token is configured, and other machines reach this port."""

    def __init__(self) -> None:
        super().__init__([])

    def allow(self, authorization: str | None) -> bool:
        return False


def _given(body: RequestModel) -> dict[str, Any]:
    return body.model_dump(exclude_none=True, exclude=set(body.model_extra or ()))


AdminRequest = TypeVar("AdminRequest", AdminDrainRequest, AdminRoleRequest)


async def _read(request: Request, model: type[AdminRequest], is_open: bool) -> AdminRequest:
    """Return the body; an empty one is an empty object."""
    raw = await read_body(request, MAX_BODY_BYTES)
    if is_open and raw:
        # A page may send other types to other origins without asking first.
        require_json(request)
    return validate(parse_json(raw) if raw.strip() else {}, model)

"""One generating endpoint from request to last byte, as an ASGI response.

Everything happens inside `__call__`, so that the gate of `WorkerState` is held exactly as long as
the client is being answered.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from steelyard_runtime.errors import EngineDeadError, RequestError
from steelyard_runtime.server.error_handlers import on_request_error
from steelyard_runtime.server.generation import ClientGoneError
from steelyard_runtime.server.protocol.generation import GenerationRequest
from steelyard_runtime.server.served_model import Worker
from steelyard_runtime.server.serving import Prepared, log_fields, serve

Body = TypeVar("Body", bound=GenerationRequest)
Prepare = Callable[[Worker, Body, str], Awaitable[Prepared]]


class GenerationEndpoint(Response):
    """Answers one request."""

    def __init__(self, worker: Worker, model: type[Body], prepare: Prepare[Body]) -> None:
        super().__init__()
        self._worker = worker
        self._prepare: Callable[[Request], Awaitable[Prepared]] = _preparer(worker, model, prepare)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, prepare, generate, answer."""
        request = Request(scope, receive)
        fields = scope["state"]["log"]
        keepalive_seconds = self._worker.settings.sse_keepalive_seconds
        try:
            with self._worker.state.admitted():
                prepared = await self._prepare(request)
                try:
                    await serve(prepared, scope, receive, send, keepalive_seconds)
                finally:
                    fields.update(log_fields(prepared.generation))
        except (RequestError, EngineDeadError) as error:
            response = await on_request_error(request, error)
            await response(scope, receive, send)
        except (ClientGoneError, ClientDisconnect):
            fields["client_gone"] = True


def _preparer(
    worker: Worker, model: type[Body], prepare: Prepare[Body]
) -> Callable[[Request], Awaitable[Prepared]]:
    async def run(request: Request) -> Prepared:
        async with worker.bodies.read(request, model) as body:
            return await prepare(worker, body, request.scope["state"]["request_id"])

    return run

"""A stand-in for the API server: real HTTP on a local port, answers as each test says."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from steelyard_operator.kube.client import Client
from steelyard_operator.kube.credentials import Credentials
from steelyard_operator.kube.routers import Routers
from steelyard_operator.kube.workers import Workers
from steelyard_operator.render import ports

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest.fixture
def anyio_backend() -> str:
    """The operator is written for asyncio."""
    return "asyncio"


@dataclass(slots=True)
class Api:
    """What was asked, and what is answered next."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    def says(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer one request with JSON."""

        async def answer(_: web.Request) -> web.Response:
            return web.json_response(body, status=status, headers=headers)

        self.answers.append(answer)

    def streams(self, *chunks: bytes) -> None:
        """Answer one request with chunks as they are."""

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
            return response

        self.answers.append(answer)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Take one request."""
        text = await request.text()
        self.asked.append((request.method, request.path, dict(request.query)))
        self.bodies.append(json.loads(text) if text else None)
        return await self.answers.pop(0)(request)


@pytest.fixture
async def server() -> AsyncIterator[Api]:
    """A server that answers what it was told to, in order."""
    api = Api()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield api
    finally:
        await runner.cleanup()


@pytest.fixture
async def client(server: Api) -> AsyncIterator[Client]:
    """A client of the stand-in."""
    configuration = Configuration(host=server.url)
    async with Client(Credentials(configuration)) as found:
        yield found


@pytest.fixture
def here(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pods listen where the stand-in does."""
    port = int(server.url.rsplit(":", 1)[1])
    for name in ("ADMIN", "SERVING", "ROUTER"):
        monkeypatch.setattr(ports, name, port)


@pytest.fixture
async def workers(here: None) -> AsyncIterator[Workers]:
    """A client whose workers all listen where the stand-in does."""
    async with Workers() as found:
        yield found


@pytest.fixture
async def routers(here: None) -> AsyncIterator[Routers]:
    """A client of routers."""
    async with Routers() as found:
        yield found

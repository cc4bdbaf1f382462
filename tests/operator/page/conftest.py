"""A page over a service that is played: facts as the test sets them, answers that stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from steelyard_operator.page.chronicle import Chronicle, Look, WorkerFact
from steelyard_operator.page.server import Page, serve
from steelyard_operator.testing import a_service


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio."""
    return "asyncio"


@dataclass(slots=True)
class Played:
    """The service behind a page, and the page's address."""

    url: str = ""
    workers: list[WorkerFact] = field(default_factory=list)
    in_flight: dict[str, int] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    seconds: float = 0.0

    async def facts(self) -> dict[str, Any]:
        """Return what the page is told, a second later each time."""
        self.seconds += 1.0
        look = Look(self.seconds, "12:00:00", self.workers, [], self.in_flight)
        return self._chronicle.take(a_service(objectives={"ttftMilliseconds": 300}), look)

    _chronicle: Chronicle = field(default_factory=Chronicle)

    async def complete(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer in three pieces, the second after the first was sent."""
        self.asked.append(json.loads(await request.read()))
        self.keys.append(request.headers.get("Authorization"))
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for text in ("All ", "is ", "well."):
            event = {"choices": [{"delta": {"content": text}}]}
            await reply.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0)
        await reply.write(b"data: [DONE]\n\n")
        return reply


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    """A page that listens."""
    found = Played(
        workers=[WorkerFact("s-0", "prefill", "ready"), WorkerFact("s-1", "decode", "ready")]
    )
    behind = web.ServerRunner(web.Server(found.complete), shutdown_timeout=0.1)
    await behind.setup()
    await web.TCPSite(behind, "127.0.0.1", 0).start()
    endpoint = f"http://127.0.0.1:{behind.addresses[0][1]}"
    async with aiohttp.ClientSession() as session:
        runner, found.url = await serve(Page(session, found.facts, lambda: endpoint), 0)
        yield found
        await runner.cleanup()
    await behind.cleanup()

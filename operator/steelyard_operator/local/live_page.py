"""The live page of `steelyard up`: what it is told, and where it listens."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.errors import UserError
from steelyard_operator.local.service import View


@contextlib.asynccontextmanager
async def live_page(
    service: InferenceService,
    url: str,
    port: int,
    *,
    views: Callable[[], Sequence[View]],
    notes: Callable[[], Sequence[tuple[str, str]]],
) -> AsyncIterator[str | None]:
    """Serve the page while the block runs; gives its address, or None without aiohttp.

    Args:
        service: as the file says it.
        url: of the endpoint.
        port: where to listen; 0 is any free one.
        views: the state of all processes now.
        notes: time and text of what was decided, the oldest first.

    Raises:
        UserError: the port is taken.
    """
    try:
        import aiohttp

        from steelyard_operator.page.chronicle import Chronicle, Look, WorkerFact
        from steelyard_operator.page.routers import read_routers
        from steelyard_operator.page.server import HOST, Page, serve
    except ModuleNotFoundError:  # It comes with the router; somebody brought an engine alone.
        yield None
        return
    chronicle = Chronicle()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def facts() -> dict[str, Any]:
            readings, in_flight = await read_routers(session, [url])
            workers = [
                WorkerFact(view.name, view.role, view.phase)
                for view in views()
                if view.role != "router"
            ]
            look = Look(time.monotonic(), time_of_day(), workers, readings, in_flight, notes())
            return chronicle.take(service, look)

        try:
            runner, address = await serve(Page(session, facts, lambda: url), port)
        except OSError as error:
            raise UserError(
                f"--page-port {port} cannot be used on {HOST}: {error.strerror}; give one that is "
                "free, or 0 for any"
            ) from None
        try:
            yield address
        finally:
            await runner.cleanup()


def time_of_day() -> str:
    """Return the time as people read it."""
    return datetime.now().astimezone().strftime("%H:%M:%S")

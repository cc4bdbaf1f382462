"""The operator's own HTTP port: metrics, and whether it lives.

It is ready once it has read the Lease, also where another replica holds it: a rollout of the
operator must not wait for leadership.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from steelyard_operator.errors import UserError
from steelyard_operator.kube.metrics import REGISTRY


@asynccontextmanager
async def serving(
    port: int, *, ready: Callable[[], bool], measure: Callable[[], None] = lambda: None
) -> AsyncIterator[int]:
    """Serve for the time of the block; gives the port, which 0 leaves to the system.

    Args:
        port: where to listen, on all addresses.
        ready: whether `/readyz` says 200.
        measure: brings gauges up to date before they are read.

    Raises:
        UserError: the port is taken.
    """

    async def metrics(_: web.Request) -> web.Response:
        measure()
        return web.Response(
            body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if ready():
            return web.Response(text="ok\n")
        return web.Response(text="the Lease was not read yet\n", status=503)

    app = web.Application()
    app.add_routes(
        [
            web.get("/metrics", metrics),
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, None, port)
        try:
            await site.start()
        except OSError as error:
            raise UserError(
                f"the port {port} (STEELYARD_METRICS_PORT) cannot be used: {error.strerror}"
            ) from None
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()

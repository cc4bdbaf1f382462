"""The HTTP server under the service: limits, cancellation, and malformed requests."""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from steelyard_runtime.errors import ConfigError, RequestError
from steelyard_runtime.router.replies import error_reply

logger = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connection(RequestHandler):
    """Answers what is not HTTP in the same shape as everything else."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that could not be parsed; the connection closes."""
        logger.info(
            "malformed request", extra={"fields": {"from": request.remote, "why": str(exc)}}
        )
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        reply = error_reply(
            RequestError("The request must be well-formed HTTP/1.1.", status=status)
        )
        reply.force_close()
        return reply


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


def http_server(handle: Handler, max_request_bytes: int) -> web.Server:
    """Return the server; it needs a running loop."""
    loop = asyncio.get_running_loop()

    def make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        return web.BaseRequest(
            message, payload, protocol, writer, task, loop, client_max_size=max_request_bytes
        )

    return _Server(
        handle,
        request_factory=make_request,
        handler_cancellation=True,  # A client that goes away closes its worker's stream at once.
        access_log=None,
        keepalive_timeout=75.0,
    )


async def listen(site: web.TCPSite, host: str, port: int) -> None:
    """Start to listen.

    Raises:
        ConfigError: the address is in use or not of this machine.
    """
    try:
        await site.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"--port {port} is in use on {host}; give one that is free, or 0 for any"
            ) from None
        raise ConfigError(
            f"--host must be an address of this machine, got '{host}': {error.strerror}"
        ) from None

"""The HTTP server under the service: limits, cancellation, and malformed requests.

How many connections there may be, and how slow they may be, is decided in `connections.py`.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from steelyard_runtime.errors import ConfigError, RequestError
from steelyard_runtime.router.connections import CONGESTED_BYTES, Connections
from steelyard_runtime.router.replies import error_reply

logger = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

KEEPALIVE_SECONDS = 75.0
MOST_HEAD_BYTES = 64 * 1024  # of request line and headers together
_TOO_MANY_HEADERS = "Too many headers"  # as aiohttp says it, with no type of its own


class _Connection(RequestHandler):
    """Answers what is not HTTP in the same shape as everything else."""

    __slots__ = (
        "_connections",
        "_head_bytes",
        "_wire",
        "body_since_seconds",
        "head_since_seconds",
        "peer",
        "served",
        "unread_bytes",
        "unread_since_seconds",
        "waits_since_seconds",
    )

    def __init__(self, manager: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._wire: asyncio.Transport | None = None
        self._head_bytes = 0
        self.peer = ""
        self.served = False
        self.body_since_seconds: float | None = None
        self.head_since_seconds: float | None = None
        self.waits_since_seconds: float | None = None
        self.unread_bytes = 0
        self.unread_since_seconds = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place among the connections."""
        wire = self._wire = cast(asyncio.Transport, transport)
        self.waits_since_seconds = self._loop.time()
        peer = wire.get_extra_info("peername")
        self.peer = str(peer[0]) if peer else ""
        raw = wire.get_extra_info("socket")
        if raw is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # What a client does not read waits here, where it is seen, and not in the kernel.
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, CONGESTED_BYTES)
        super().connection_made(transport)
        self._connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place up."""
        self._connections.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; a head has a size and a time within which it must be complete."""
        super().data_received(data)
        if self._messages or self.waits_since_seconds is None:
            self.waits_since_seconds = None
            self.head_since_seconds = None
            self._head_bytes = 0
            self._end_broken_body()
            return
        if self.head_since_seconds is None:
            self.head_since_seconds = self._loop.time()
        self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(_too_large_head())

    def unread(self) -> int:
        """Return how many bytes wait for the client to read."""
        return 0 if self._wire is None else self._wire.get_write_buffer_size()

    def refuse_slow_head(self) -> None:
        """Answer 408 and close."""
        self._refuse(
            RequestError("The request's headers came too slowly.", status=408, code="slow_headers")
        )

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        if self._wire is not None:
            self._wire.abort()

    def _refuse(self, error: RequestError) -> None:
        """Answer a request whose head is not complete, and take nothing more."""
        self.head_since_seconds = None
        if self._wire is None or self._wire.is_closing():
            return
        body = error_reply(error).body
        assert isinstance(body, bytes)
        self._wire.write(
            f"HTTP/1.1 {error.status} {'Request Timeout' if error.status == 408 else 'Refused'}\r\n"
            "Content-Type: application/json; charset=utf-8\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self.force_close()

    def _end_broken_body(self) -> None:
        """Tell the handler that reads a body that the rest of it is no HTTP."""
        request = self._current_request
        if request is None or not self._messages or request.content.is_eof():
            return
        # Only one that could not be parsed can follow a body that is not complete.
        request.content.set_exception(web.RequestPayloadError("the body's framing is broken"))

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
        error = RequestError("The request must be well-formed HTTP/1.1.", status=status)
        if isinstance(exc, LineTooLong) or (
            isinstance(exc, BadHttpMessage) and _TOO_MANY_HEADERS in str(exc)
        ):
            error = _too_large_head()
        reply = error_reply(error)
        reply.force_close()
        return reply


def _too_large_head() -> RequestError:
    return RequestError(
        "The request's line and headers must have at most 128 lines of 8190 bytes and "
        f"{MOST_HEAD_BYTES} bytes in all.",
        status=431,
        code="headers_too_large",
    )


class _Server(web.Server):
    def __init__(self, handle: Handler, connections: Connections, **options: Any) -> None:
        super().__init__(handle, **options)
        self._places = connections

    def __call__(self) -> RequestHandler:
        return _Connection(self, self._places, loop=self._loop, **self._kwargs)


def http_server(handle: Handler, connections: Connections) -> web.Server:
    """Return the server; it needs a running loop. `handle` reads bodies and bounds them."""
    loop = asyncio.get_running_loop()

    def make_request(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(_Connection, request.protocol)
        connection.waits_since_seconds = None
        try:
            return await handle(request)
        finally:
            connection.served = True
            connection.waits_since_seconds = loop.time()

    return _Server(
        answer,
        connections,
        request_factory=make_request,
        handler_cancellation=True,  # A client that goes away closes its worker's stream at once.
        access_log=None,
        keepalive_timeout=KEEPALIVE_SECONDS,
        auto_decompress=False,  # `bodies.py` does it, after the key and within the limit
        lingering_time=0.0,  # so does it with what is left of a refused body
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

"""The answer to one client that streams: opened as late as possible, kept alive while silent.

The status is decided by the worker's answer, so the headers go out with that, unless the client
has waited for a keep-alive interval: then with the first comment line. Chunks are framed here and
go straight to the transport: aiohttp's writer would cost as much again as the rest of the way.
"""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import HttpVersion11, web

from steelyard_runtime.errors import SteelyardError
from steelyard_runtime.router.connections import CONGESTED_BYTES

KEEPALIVE = b": keep-alive\n\n"


class ClientGoneError(SteelyardError):
    """The client closed its connection; nobody is there to be told."""


class ClientStream:
    """One server-sent event stream to a client."""

    __slots__ = (
        "_chunked",
        "_clock",
        "_closing",
        "_headers",
        "_request",
        "_response",
        "_transport",
        "last_write_seconds",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        headers: Mapping[str, str],
        loop: asyncio.AbstractEventLoop,
        closing: Callable[[], bool],
    ) -> None:
        """Prepare an answer; `closing` tells whether its connection is to end with it."""
        self._request = request
        self._headers = headers
        self._response: web.StreamResponse | None = None
        self._transport: asyncio.Transport | None = None
        self._chunked = request.version >= HttpVersion11
        self._clock = loop.time
        self._closing = closing
        self.last_write_seconds = loop.time()

    @property
    def opened(self) -> bool:
        """Whether status and headers are out, so that errors must be events."""
        return self._transport is not None

    @property
    def congested(self) -> bool:
        """Whether the client reads more slowly than the worker writes."""
        transport = self._transport
        return transport is not None and transport.get_write_buffer_size() > CONGESTED_BYTES

    async def open(self) -> None:
        """Send status and headers, once.

        Raises:
            ClientGoneError: the client closed the connection.
        """
        if self._response is not None:
            return
        response = self._response = web.StreamResponse(headers=self._headers)
        if self._chunked:
            response.enable_chunked_encoding()
        if self._closing():
            response.force_close()
        try:
            await response.prepare(self._request)
        except ConnectionError:
            raise ClientGoneError from None
        if self._request.transport is None:
            raise ClientGoneError
        self._transport = self._request.transport

    def push(self, data: bytes) -> None:
        """Send bytes on an open stream; they are dropped if the client is gone."""
        self.last_write_seconds = self._clock()
        transport = self._transport
        if transport is None or transport.is_closing():
            return  # The handler's task is cancelled for that.
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def send(self, data: bytes) -> None:
        """Open the stream if need be, and send bytes."""
        await self.open()
        self.push(data)

    async def keep_alive(self) -> None:
        """Send a comment line."""
        await self.send(KEEPALIVE)

    async def drained(self) -> None:
        """Wait until the client has read most of what was sent."""
        await self._request.writer.drain()

    async def finish(self) -> web.StreamResponse:
        """End the stream.

        Raises:
            ClientGoneError: the client closed the connection.
        """
        assert self._response is not None
        try:
            await self._response.write_eof()
        except ConnectionError:
            raise ClientGoneError from None
        return self._response


def stream_headers(common: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an event stream; proxies in front must not collect it."""
    return {
        **common,
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
    }

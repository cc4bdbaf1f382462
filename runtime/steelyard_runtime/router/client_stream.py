"""The answer to one client that streams: opened as late as possible, kept alive while silent.

The status is decided by the worker's answer, so the headers go out with the first event, unless
the client has waited for a keep-alive interval: then with the first comment line.
"""

import asyncio
import contextlib
from collections.abc import Mapping

from aiohttp import web

from steelyard_runtime.errors import SteelyardError

KEEPALIVE = b": keep-alive\n\n"


class ClientGoneError(SteelyardError):
    """The client closed its connection; nobody is there to be told."""


class ClientStream:
    """One server-sent event stream to a client."""

    __slots__ = ("_clock", "_headers", "_request", "_response", "last_write_seconds")

    def __init__(
        self,
        request: web.BaseRequest,
        headers: Mapping[str, str],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._request = request
        self._headers = headers
        self._response: web.StreamResponse | None = None
        self._clock = loop.time
        self.last_write_seconds = loop.time()

    @property
    def opened(self) -> bool:
        """Whether status and headers are out, so that errors must be events."""
        return self._response is not None

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the client is too slow.

        Raises:
            ClientGoneError: the client closed the connection.
        """
        self.last_write_seconds = self._clock()
        response = self._response
        try:
            if response is None:
                # Set before the first await: a keep-alive may come from another task meanwhile.
                response = self._response = web.StreamResponse(headers=self._headers)
                await response.prepare(self._request)
            await response.write(data)
        except ConnectionError:
            raise ClientGoneError from None

    async def keep_alive(self) -> None:
        """Send a comment line."""
        with contextlib.suppress(ClientGoneError):  # The handler's own task is told, and ends.
            await self.send(KEEPALIVE)

    async def finish(self) -> web.StreamResponse:
        """End the stream."""
        assert self._response is not None
        await self._response.write_eof()
        return self._response


def stream_headers(common: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an event stream; proxies in front must not collect it."""
    return {
        **common,
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
    }

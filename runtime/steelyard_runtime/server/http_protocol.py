"""One HTTP/1.1 connection: uvicorn's, with bounds on time and size and OpenAI's error shape.

uvicorn waits for as long as a client likes, for a head, for a body and for a reader.
"""

import asyncio
from typing import Any, cast

import httptools
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.access import QUIET_PATHS
from steelyard_runtime.server.connections import Connections
from steelyard_runtime.server.failures import error_body, error_response

REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class HttpProtocol(HttpToolsProtocol):
    """Ends its connection when something takes too long or is too large."""

    def __init__(self, *arguments: Any, connections: Connections, **more: Any) -> None:
        """Belong to `connections`; the rest is uvicorn's."""
        super().__init__(*arguments, **more)
        self._port = connections
        self._limits = connections.limits
        self._since = connections.clock()
        self._in_head = False
        self._message_is_whole = True
        self._has_asked = False
        self._fed_bytes = 0  # of a head that is not whole
        self._head_bytes = 0  # of what the parser found in it, trailers included
        self._body_bytes = 0
        self._paused_at: float | None = None
        self._closing_at: float | None = None
        self._refused_at: float | None = None
        self._begun = 0  # requests, in the packet at hand

    # --- the transport's calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place, or one of those for probes."""
        super().connection_made(transport)
        if not self._port.open(self):
            self.app = cast(Any, _ProbesAlone(cast(ASGIApp, self.app)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._port.close(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; a head that goes on for too long is refused before it is kept."""
        if self._refused_at is not None:
            return
        # The head alone is counted; a packet that begins with the rest of a body is not.
        self._begun = 0 if self._message_is_whole else 1
        if self._in_head:
            self._fed_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._begun == 1 and not self._fed_bytes:
            self._fed_bytes = len(data)
        if self._in_head and self._fed_bytes > self._limits.head_bytes:
            self._refuse_head()

    def pause_writing(self) -> None:
        """Note since when the reader does not keep up."""
        self._paused_at = self._port.clock()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The reader reads again."""
        self._paused_at = None
        super().resume_writing()

    # --- the parser's calls ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin to measure the head."""
        super().on_message_begin()
        self._begun += 1
        self._in_head, self._message_is_whole = True, False
        self._fed_bytes = self._head_bytes = self._body_bytes = 0
        self._since = self._port.clock()

    def on_url(self, url: bytes) -> None:
        """Keep a part of the target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._in_head, self._has_asked = False, True
        self._since = self._port.clock()
        self._port.sending(self)
        super().on_headers_complete()
        if len(self.pipeline) > self._limits.pipelined:
            self.transport.abort()
            raise httptools.HttpParserError("too many requests at once")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._message_is_whole = True
        super().on_message_complete()
        self._settle()

    def on_response_complete(self) -> None:
        """Note that it is answered."""
        super().on_response_complete()
        if not self._in_head:
            self._since = self._port.clock()
        self._settle()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be parsed, and close."""
        if self._head_bytes > self._limits.head_bytes:
            self._refuse_head()
        else:
            self._refuse(RequestError(f"the request is not valid HTTP: {msg}"))

    # --- the port's calls -----------------------------------------------------------------------

    def overdue(self, now: float) -> str | None:
        """Return what has taken too long, and end the connection if anything has."""
        limits, waited = self._limits, now - self._since
        if self._paused_at is not None and now - self._paused_at > limits.reader_seconds:
            self.transport.abort()
            return "reader"
        if self._refused_at is not None and now - self._refused_at > limits.refused_seconds:
            self.transport.abort()
            return None
        if self.transport.is_closing() or self._refused_at is not None:
            return self._closing(now)
        if self._message_is_whole and not self._is_busy:
            longest = limits.keep_alive_seconds if self._has_asked else limits.first_seconds
            if waited > longest:
                self.transport.close()
                return None if self._has_asked else "idle"
        elif self._in_head and not self._is_busy and waited > limits.head_seconds:
            seconds = f"{limits.head_seconds:g} s"
            self._refuse(
                RequestError(f"the request's headers must be whole within {seconds}", status=408)
            )
            return "head"
        elif not self._in_head and not self._message_is_whole:
            return self._body_overdue(waited)
        return None

    def give_way(self) -> None:
        """End the connection for another one."""
        self.transport.abort()

    # --- inside ---------------------------------------------------------------------------------

    @property
    def _is_busy(self) -> bool:
        """Whether a request is being answered."""
        cycle: Any = self.cycle  # uvicorn leaves it None before the first request
        return cycle is not None and not cycle.response_complete

    def _settle(self) -> None:
        if self.transport.is_closing() or self._in_head or not self._message_is_whole:
            return
        if self._is_busy:
            self._port.answered(self)
        else:
            self._port.idle(self)

    def _body_overdue(self, waited: float) -> str | None:
        limits = self._limits
        if not self._is_busy:
            if waited <= limits.refused_body_seconds:
                return None
            self.transport.close()
            return "body"
        longest = limits.body_seconds + self._body_bytes / limits.body_bytes_a_second
        if waited <= longest:
            return None
        self._refuse(
            RequestError(
                f"the body must come within {limits.body_seconds:g} s and a second for each "
                f"{limits.body_bytes_a_second} bytes",
                status=408,
            )
        )
        return "body"

    def _closing(self, now: float) -> str | None:
        if self._closing_at is None:
            self._closing_at = now
        if now - self._closing_at <= self._limits.reader_seconds:
            return None
        self.transport.abort()
        return "reader"

    def _count(self, num_bytes: int) -> None:
        self._head_bytes += num_bytes
        if self._head_bytes > self._limits.head_bytes:
            raise httptools.HttpParserError("the head is too large")

    def _refuse_head(self) -> None:
        self._refuse(
            RequestError(
                f"the request line and headers may have at most {self._limits.head_bytes} bytes",
                status=431,
            )
        )

    def _refuse(self, error: RequestError) -> None:
        """Answer and close; where another answer is due or on its way, only close."""
        if self.transport.is_closing() or self._refused_at is not None:
            return
        if self._is_busy and (self._in_head or self.cycle.response_started):
            self.transport.abort()
            return
        body = error_body(error)
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (error.status, REASONS[error.status], len(body), body)
        )
        # A close with bytes unread would make a reset of it, which may overtake the answer: what
        # still comes is dropped for a moment.
        self._refused_at = self._port.clock()
        self._unset_keepalive_if_required()
        if self._is_busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()


class _ProbesAlone:
    """The application for the last places of a port: probes are answered, nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in QUIET_PATHS:
            await self._app(scope, receive, send)
            return
        full = RequestError(
            "the worker has as many connections as it may have; the request may be sent again",
            status=503,
            code="too_many_connections",
            kind="server_error",
            retry_after_seconds=1,
        )
        await error_response(full, {"connection": "close"})(scope, receive, send)

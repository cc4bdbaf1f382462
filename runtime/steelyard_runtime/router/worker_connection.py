"""One HTTP/1.1 connection to a worker, parsed by httptools; bytes are pushed, not pulled.

Body bytes go to a callback straight from the socket's event, with no task switch and no stream
buffer between: on the streaming path that is most of what a general client costs.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from steelyard_runtime.errors import SteelyardError

Sink = Callable[[bytes], None]

# A worker's image is the service's choice: what it may make us keep has bounds.
MOST_HEAD_BYTES = 256 * 1024
MOST_ANSWER_BYTES = 64 * 1024**2


class BadAnswerError(SteelyardError):
    """The worker's answer is too large, or not what was asked for."""


class Answer:
    """A worker's answer while it comes in."""

    __slots__ = (
        "_buffer",
        "_buffered_bytes",
        "_connection",
        "_most_bytes",
        "_sink",
        "_waiter",
        "complete",
        "error",
        "headers",
        "status",
    )

    def __init__(self, connection: "WorkerConnection") -> None:
        self.status = 0  # until the head is there
        self.headers: dict[str, str] = {}  # names in lower case
        self.complete = False
        self.error: Exception | None = None
        self._connection = connection
        self._buffer: list[bytes] = []
        self._buffered_bytes = 0
        self._most_bytes = MOST_ANSWER_BYTES
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            ConnectionError: the connection broke before.
        """
        while not self.status:
            await self._wait()

    async def read(self, most_bytes: int = MOST_ANSWER_BYTES) -> bytes:
        """Return the whole body.

        Raises:
            BadAnswerError: it is larger than `most_bytes`.
            ConnectionError: the connection broke before its end.
        """
        self._most_bytes = most_bytes
        self._check_size()
        while not self.complete:
            await self._wait()
        if self.error is not None:
            raise self.error
        return b"".join(self._buffer)

    async def relay(self, sink: Sink) -> None:
        """Give the body to `sink` as it comes, until its end.

        Raises:
            ConnectionError: the connection broke before the end.
            Exception: whatever `sink` raised.
        """
        if self._buffer:
            sink(b"".join(self._buffer))
            self._buffer.clear()
        self._sink = sink
        while not self.complete:
            await self._wait()

    def pause(self) -> None:
        """Read no more from the worker for now."""
        self._connection.set_reading(reading=False)

    def resume(self) -> None:
        """Read on."""
        if not self.complete:
            self._connection.set_reading(reading=True)

    def close(self) -> None:
        """Give the connection back, or break it where the answer is not complete."""
        self._connection.release(self)

    def body_came(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self._sink is None:
            self._buffer.append(data)
            self._buffered_bytes += len(data)
            self._check_size()
            return
        try:
            self._sink(data)
        except Exception as error:
            self.failed(error)

    def progressed(self) -> None:
        """Wake whoever waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def failed(self, error: Exception) -> None:
        """End the answer where it is."""
        if self.error is None:
            self.error = error
        self.progressed()

    def _check_size(self) -> None:
        if self._buffered_bytes > self._most_bytes:
            self._buffer.clear()
            self._connection.set_reading(reading=False)
            self.failed(BadAnswerError("too large"))

    async def _wait(self) -> None:
        if self.error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.error is not None:
            raise self.error


class WorkerConnection(asyncio.Protocol):
    """The protocol behind an `Answer`: one request at a time."""

    def __init__(self, on_idle: Callable[["WorkerConnection"], None]) -> None:
        self.idle_since_seconds = 0.0
        self._on_idle = on_idle
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: Answer | None = None
        self._parts: list[bytes] = []
        self._keep_alive = False
        self._framed = False
        self._head_bytes = 0
        self._ended = False  # a final answer's end was parsed

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> Answer:
        """Send a request; its head and body are complete in `request`."""
        assert self._transport is not None
        self._parser = httptools.HttpResponseParser(self)
        self._framed = False
        self._head_bytes = 0
        self._ended = False
        self._answer = Answer(self)
        self._transport.write(request)
        return self._answer

    def set_reading(self, *, reading: bool) -> None:
        """Read from the socket or leave it alone."""
        if self._transport is not None and not self._transport.is_closing():
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def release(self, answer: Answer) -> None:
        """Keep the connection for another request if this one is over, else break it."""
        if self._answer is answer:
            self._answer = None
            if answer.complete and answer.error is None and self._keep_alive and self.usable:
                self._on_idle(self)
            elif self._transport is not None:
                self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        if self._transport is not None:
            self._transport.close()

    # --- asyncio.Protocol -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        """Parse; what came in one read is passed on in one piece."""
        answer = self._answer
        if answer is None or self._parser is None:
            self.close()  # Nothing was asked.
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            answer.failed(ConnectionError(f"not HTTP: {error}"))
            return
        if self._parts:
            self._head_bytes = 0
        else:
            # Bytes that are no body: of the head, of trailers, of what comes between chunks.
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                answer.failed(BadAnswerError("its headers are too large"))
                self.set_reading(reading=False)
                return
        if self._parts:
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            answer.body_came(body)
        if answer.complete:
            answer.progressed()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the answer, unless the end of the connection is its end."""
        answer, self._answer = self._answer, None
        if answer is None or answer.complete:
            return
        if exc is None and answer.status and not self._framed:
            answer.complete = True
            answer.progressed()
        else:
            answer.failed(ConnectionResetError("the worker closed the connection"))

    # --- httptools' callbacks -------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        assert self._answer is not None
        if self._answer.status:
            return  # A trailer, which is not used.
        key = name.decode("latin-1").lower()
        self._answer.headers[key] = value.decode("latin-1")
        if key in ("content-length", "transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        """Tell that the head is there."""
        assert self._answer is not None
        assert self._parser is not None
        if self._ended:
            raise BadAnswerError("a second answer to one request")
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self._answer.headers.clear()
            self._framed = False
            return
        self._answer.status = status
        self._keep_alive = self._framed and self._parser.should_keep_alive()
        self._answer.progressed()

    def on_body(self, body: bytes) -> None:
        """Collect a piece of the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Note the end; it is told after the last piece."""
        assert self._answer is not None
        if self._answer.status:
            self._ended = True
            self._answer.complete = True

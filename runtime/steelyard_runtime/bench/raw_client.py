"""A load generator that costs next to nothing: prepared bytes out, time stamps of chunks in.

No HTTP parser: it only looks for the first token and for the end of the answer.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

import orjson

_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Timing:
    """One stream, in seconds since it was sent."""

    first_token_seconds: float
    total_seconds: float
    reads: int


@dataclass(slots=True)
class _Exchange:
    done: asyncio.Future[Timing]
    sent_seconds: float
    abort_after_first: bool
    first_token_seconds: float = 0.0
    tail: bytes = b""
    reads: int = 0


@dataclass(slots=True)
class RawConnection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    _transport: asyncio.Transport | None = None
    _exchange: _Exchange | None = None
    _lost: bool = field(default=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        self._lost = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None and not exchange.done.done():
            exchange.done.set_exception(ConnectionError("connection lost"))

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not self._lost

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def send(self, request: bytes, *, abort_after_first: bool = False) -> "asyncio.Future[Timing]":
        """Send a request; the future gives its timing, or fails."""
        assert self._transport is not None
        done: asyncio.Future[Timing] = asyncio.get_running_loop().create_future()
        self._exchange = _Exchange(done, time.perf_counter(), abort_after_first)
        self._transport.write(request)
        return done

    def data_received(self, data: bytes) -> None:
        """Look for the first token and for the end."""
        exchange = self._exchange
        if exchange is None:
            return
        now_seconds = time.perf_counter() - exchange.sent_seconds
        exchange.reads += 1
        window = exchange.tail + data
        exchange.tail = window[-64:]
        if not exchange.first_token_seconds and (b'"content":" ' in window):
            exchange.first_token_seconds = now_seconds
            if exchange.abort_after_first:
                self._finish(exchange, now_seconds)
                assert self._transport is not None
                self._lost = True
                self._transport.abort()
                return
        if window.endswith(_END):
            self._finish(exchange, now_seconds)

    def _finish(self, exchange: _Exchange, now_seconds: float) -> None:
        self._exchange = None
        exchange.done.set_result(Timing(exchange.first_token_seconds, now_seconds, exchange.reads))


def request_bytes(port: int, body: dict[str, object], api_key: str = "") -> bytes:
    """Return a chat request as it goes over the wire."""
    content = orjson.dumps(body)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        "X-Request-Id: bench\r\n"
    )
    if api_key:
        head += f"Authorization: Bearer {api_key}\r\n"
    return head.encode() + b"\r\n" + content


async def connect(port: int) -> RawConnection:
    """Open a connection."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(RawConnection, "127.0.0.1", port)
    return connection

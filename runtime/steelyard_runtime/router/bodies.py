"""Reading a request's body: up to a limit, at a pace, unpacked as it comes.

A body that is too slow is ended, and so is the one that has been coming for longest where all
bodies that are on their way together take more memory than they may.
"""

import asyncio
from dataclasses import dataclass, field
from typing import cast

from aiohttp import web

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.compression import Inflater, inflater_for, too_large
from steelyard_runtime.router.connections import ClientConnection

SLOWEST_BYTES_PER_SECOND = 16 * 1024  # on average, once the grace is over
BODIES_AT_ONCE = 32  # bodies of the largest size that may be half read together
_DROPPED_BYTES, _DROPPED_SECONDS = 64 * 1024**2, 3.0
_TOO_SLOW = 408
# A compressed piece of this size may unpack to a thousand times as much: some 10 ms.
_INLINE_COMPRESSED_BYTES = 4096


@dataclass(slots=True, eq=False)
class _Coming:
    """One body that is on its way."""

    began_seconds: float
    scope: asyncio.Timeout
    parts: list[bytes] = field(default_factory=list)
    wire_bytes: int = 0
    held_bytes: int = 0


class BodyReader:
    """Reads the bodies of all clients."""

    def __init__(self, limit_bytes: int, grace_seconds: float) -> None:
        """Take the largest body and how long a body may take whatever its size."""
        self._limit_bytes = limit_bytes
        self._grace_seconds = grace_seconds
        self._most_held_bytes = BODIES_AT_ONCE * limit_bytes
        self._held_bytes = 0
        self._coming: dict[_Coming, None] = {}  # the oldest first

    async def read(self, request: web.BaseRequest) -> bytes:
        """Return the body, unpacked; one that says too large a length is refused unread.

        Raises:
            RequestError: 400 (damaged), 408 (too slow), 413 (too large) or 415 (its encoding).
        """
        length = request.content_length
        if length is not None and length > self._limit_bytes:
            raise too_large(self._limit_bytes)
        content = request.content
        encodings = request.headers.getall("Content-Encoding", [])
        inflater = inflater_for(encodings, self._limit_bytes) if encodings else None
        if inflater is None and content.is_eof() and content.exception() is None:
            # The usual way: it came with the head.
            body = content.read_nowait(-1)
            if len(body) > self._limit_bytes:
                raise too_large(self._limit_bytes)
            return body
        _continue(request)
        return await self._collect(request, inflater)

    async def _collect(self, request: web.BaseRequest, inflater: Inflater | None) -> bytes:
        clock = asyncio.get_running_loop().time
        began_seconds = clock()
        scope = asyncio.timeout_at(began_seconds + self._grace_seconds)
        coming = _Coming(began_seconds, scope)
        self._coming[coming] = None
        connection = cast(ClientConnection, request.protocol)
        connection.body_since_seconds = began_seconds
        try:
            async with scope:
                async for piece in request.content.iter_any():
                    await self._take(coming, piece, inflater)
                if inflater is not None:
                    inflater.end()
        except web.RequestPayloadError:
            raise RequestError("The body must be framed as HTTP/1.1 says.") from None
        except TimeoutError:
            raise RequestError(
                "The body came too slowly: it must come within "
                f"{self._grace_seconds:g} s, or then at {SLOWEST_BYTES_PER_SECOND} bytes a second.",
                status=_TOO_SLOW,
                code="body_too_slow",
            ) from None
        finally:
            connection.body_since_seconds = None
            del self._coming[coming]
            self._held_bytes -= coming.held_bytes
        return b"".join(coming.parts)

    async def _take(self, coming: _Coming, piece: bytes, inflater: Inflater | None) -> None:
        coming.wire_bytes += len(piece)
        if coming.wire_bytes > self._limit_bytes:
            raise too_large(self._limit_bytes)
        allowed_seconds = self._grace_seconds + coming.wire_bytes / SLOWEST_BYTES_PER_SECOND
        if not coming.scope.expired():
            coming.scope.reschedule(coming.began_seconds + allowed_seconds)
        if inflater is not None:
            if len(piece) > _INLINE_COMPRESSED_BYTES:
                piece = await asyncio.to_thread(inflater.feed, piece)
            else:
                piece = inflater.feed(piece)
        coming.parts.append(piece)
        coming.held_bytes += len(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > self._most_held_bytes:
            oldest = next(iter(self._coming))
            oldest.scope.reschedule(asyncio.get_running_loop().time())


async def answer_unread(request: web.BaseRequest, reply: web.StreamResponse) -> None:
    """Answer a request whose body was not read, and close.

    A client that only writes would not see the answer, so what it writes is read and dropped, for
    a bounded time and size.
    """
    reply.force_close()
    try:
        await reply.prepare(request)
        await reply.write_eof()
    except ConnectionError:
        return
    if reply.status == _TOO_SLOW or _waits_for_continue(request):
        return
    left_bytes = _DROPPED_BYTES
    try:
        async with asyncio.timeout(_DROPPED_SECONDS):
            while left_bytes > 0 and not request.content.is_eof():
                left_bytes -= len(await request.content.readany())
    except (TimeoutError, web.RequestPayloadError, ConnectionError):
        pass


def _waits_for_continue(request: web.BaseRequest) -> bool:
    return request.headers.get("Expect", "").lower() == "100-continue"


def _continue(request: web.BaseRequest) -> None:
    """Tell a client that waits for it (curl, from 1 MiB) to send its body."""
    if _waits_for_continue(request) and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

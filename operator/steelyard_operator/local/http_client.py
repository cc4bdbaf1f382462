"""A small HTTP/1.1 client for our own servers on this machine: one request a connection.

On asyncio streams, so that a request ends with its task; the light command has no HTTP library.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

LONGEST_LINE_BYTES = 1024 * 1024
LONGEST_ANSWER_BYTES = 1024 * 1024  # that is read as a whole
MOST_HEADERS = 128
PIECE_BYTES = 65536


class HttpError(Exception):
    """The server could not be reached, or did not answer in HTTP."""


@dataclass(slots=True)
class Response:
    """An answer whose body is still on its way."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    _reader: asyncio.StreamReader

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self._reader.readuntil(b"\n")).split(b";")[0], 16):
                async for piece in self._exactly(size):
                    yield piece
                await self._reader.readline()
            return
        if "content-length" in self.headers:
            async for piece in self._exactly(int(self.headers["content-length"])):
                yield piece
            return
        while chunk := await self._reader.read(PIECE_BYTES):
            yield chunk

    async def _exactly(self, size: int) -> AsyncIterator[bytes]:
        """Yield a body of this length in pieces; the length is the server's claim."""
        if size < 0:
            raise ValueError("the answer has a negative length")
        while size:
            piece = await self._reader.readexactly(min(size, PIECE_BYTES))
            size -= len(piece)
            yield piece

    async def lines(self) -> AsyncIterator[str]:
        """Yield the body line by line."""
        rest = b""
        async for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LONGEST_LINE_BYTES:
                raise ValueError(f"a line is longer than {LONGEST_LINE_BYTES} bytes")
            for line in lines:
                yield line.decode("utf-8", "replace").rstrip("\r")
        if rest:
            yield rest.decode("utf-8", "replace")

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            ValueError: it is longer than LONGEST_ANSWER_BYTES; an HttpError outside of `request`.
        """
        content = bytearray()
        async for chunk in self.chunks():
            content += chunk
            if len(content) > LONGEST_ANSWER_BYTES:
                raise ValueError(f"the answer is longer than {LONGEST_ANSWER_BYTES} bytes")
        return bytes(content)


@asynccontextmanager
async def request(
    method: str,
    url: str,
    *,
    body: Any = None,
    token: str | None = None,
) -> AsyncIterator[Response]:
    """Send a request, with `body` as JSON and `token` as bearer token, and yield the answer.

    Raises:
        HttpError: nobody listens, the connection broke, or the answer is no HTTP. Also raised where
            the body is read inside the block.
    """
    parts = urlsplit(url)
    content = b"" if body is None else json.dumps(body).encode()
    head = [f"{method} {parts.path or '/'} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
    if token:
        head.append(f"Authorization: Bearer {token}")
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    writer = None
    try:
        reader, writer = await asyncio.open_connection(
            parts.hostname, parts.port, limit=LONGEST_LINE_BYTES
        )
        writer.write("\r\n".join([*head, "", ""]).encode() + content)
        await writer.drain()
        yield await _read_head(reader)
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
        raise HttpError(f"{url}: {error}") from error
    finally:
        if writer is not None:
            writer.close()


async def get_json(url: str, *, token: str | None = None) -> tuple[int, Any]:
    """Return the status and the JSON body of a GET; the body is None where it is no JSON."""
    async with request("GET", url, token=token) as response:
        content = await response.read()
    try:
        return response.status, json.loads(content)
    except (ValueError, RecursionError):
        return response.status, None


async def _read_head(reader: asyncio.StreamReader) -> Response:
    version, _, rest = (await reader.readline()).decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("the answer is not HTTP/1.1")
    headers: dict[str, str] = {}
    while line := (await reader.readline()).decode("latin-1").strip():
        if len(headers) == MOST_HEADERS:
            raise ValueError(f"the answer has more than {MOST_HEADERS} headers")
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Response(int(rest.split(" ", 1)[0]), headers, reader)

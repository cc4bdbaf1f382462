"""The small HTTP client: what a process answers is read as far as it may be long."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from steelyard_operator.local.http_client import (
    LONGEST_ANSWER_BYTES,
    HttpError,
    get_json,
    request,
)

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
MUCH = b"x" * (LONGEST_ANSWER_BYTES + 1)


@pytest.fixture
def anyio_backend() -> str:
    """The client is written for asyncio."""
    return "asyncio"


@asynccontextmanager
async def answering(*parts: bytes) -> AsyncIterator[str]:
    """Serve one answer, byte for byte; gives its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for part in parts:
                writer.write(part)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/state"


ENDLESS: dict[str, Callable[[], tuple[bytes, ...]]] = {
    "a length without end": lambda: (OK, b"Content-Length: 99999999999\r\n\r\n", MUCH),
    "chunks without end": lambda: (
        OK,
        b"Transfer-Encoding: chunked\r\n\r\n",
        *([b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 17),
    ),
    "a chunk without end": lambda: (OK, b"Transfer-Encoding: chunked\r\n\r\nffffffffff\r\n", MUCH),
    "a body until the end": lambda: (OK, b"\r\n", MUCH),
    "a negative length": lambda: (OK, b"Content-Length: -5\r\n\r\n"),
    "headers without end": lambda: (OK, b"A: b\r\n" * 1, *[b"H%d: x\r\n" % n for n in range(200)]),
}


@pytest.mark.parametrize("parts", ENDLESS.values(), ids=ENDLESS)
async def test_an_answer_without_end_is_an_error(parts: Callable[[], tuple[bytes, ...]]) -> None:
    """It is no answer, as if nobody had listened; nothing is kept of it."""
    async with answering(*parts()) as url:
        with pytest.raises(HttpError):
            await asyncio.wait_for(get_json(url), 20)


async def test_a_line_without_end_is_an_error() -> None:
    """Also where an answer is read as it arrives."""
    async with answering(OK, b"\r\n", MUCH + MUCH) as url:
        with pytest.raises(HttpError, match="a line is longer"):
            async with request("GET", url) as answer:
                assert [line async for line in answer.lines()] == []


async def test_json_nested_too_deep_is_none() -> None:
    """Like everything else that is no JSON."""
    async with answering(OK, b"\r\n", b"[" * 100_000) as url:
        assert await get_json(url) == (200, None)

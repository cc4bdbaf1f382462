"""Bodies: the key first, compressed ones within the limit, slow and broken ones ended."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.compression import inflater_for
from steelyard_runtime.router.keys import ApiKey
from steelyard_runtime.testing.fake_worker import FakeWorker
from steelyard_runtime.testing.router_service import (
    CHAT,
    COMPLETIONS,
    RunningService,
    chat,
    running_service,
)

pytestmark = pytest.mark.anyio

LIMIT = 64 * 1024
BODY = json.dumps(chat("Hi", max_tokens=2)).encode()


def _raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


async def _raw(running: RunningService, data: bytes) -> bytes:
    """Send bytes on a connection of their own; return all that comes until it is closed."""
    host, port = running.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


def _head(*lines: str) -> bytes:
    first = (f"POST {CHAT} HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join([*first, *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        ("deflate", zlib.compress),
        ("deflate", _raw_deflate),
        ("identity", bytes),
        ("", bytes),
    ],
)
async def test_compressed_bodies_are_served(
    tmp_path: Path, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    """A client that compresses its body in a known way gets its answer."""
    async with running_service(tmp_path, FakeWorker(), max_request_bytes=LIMIT) as running:
        status, document, _ = await running.post(pack(BODY), headers={"Content-Encoding": encoding})

    assert status == 200
    assert document["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("encoding", "data", "status"),
    [
        ("gzip", gzip.compress(b" " * LIMIT * 40), 413),
        ("gzip", gzip.compress(b" " * LIMIT) + gzip.compress(b" "), 413),
        ("gzip", gzip.compress(b"") * 30 + gzip.compress(BODY), 400),
        ("deflate", zlib.compress(b" " * LIMIT * 40), 413),
        ("gzip", BODY, 400),
        ("gzip", gzip.compress(BODY)[:-9], 400),
        ("gzip", gzip.compress(BODY) + b"rest", 400),
        ("deflate", zlib.compress(BODY) + b"rest", 400),
        ("br", BODY, 415),
        ("zstd", BODY, 415),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415),
        ("\xff", BODY, 415),
    ],
)
async def test_wrong_compression_gets_a_sentence(
    tmp_path: Path, encoding: str, data: bytes, status: int
) -> None:
    """Too much is 413, damage 400, other encodings and several at once 415; no worker is asked."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker, max_request_bytes=LIMIT) as running:
        got, document, _ = await running.post(data, headers={"Content-Encoding": encoding})

    assert (got, worker.seen) == (status, [])
    assert document["error"]["message"].endswith(".")


def test_a_bomb_is_not_unpacked_beyond_the_limit() -> None:
    """What unpacks to a thousand times the limit costs what the limit costs."""
    inflater = inflater_for(["gzip"], LIMIT)
    assert inflater is not None
    with pytest.raises(RequestError):
        inflater.feed(gzip.compress(bytes(LIMIT * 1000)))

    assert inflater.unpacked_bytes <= LIMIT


async def test_the_key_comes_before_the_body(tmp_path: Path) -> None:
    """A request without a key is refused though its body never comes, and nothing is unpacked."""
    head = _head("Content-Encoding: gzip", "Content-Length: 100000")
    keys = (ApiKey("one", "secret"),)
    async with running_service(tmp_path, FakeWorker(), api_keys=keys) as running:
        host, port = running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        line = await asyncio.wait_for(reader.readline(), 5)
        writer.close()

    assert b" 401 " in line


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_a_body_that_does_not_come_is_408(tmp_path: Path, encoding: str) -> None:
    """A body of which only the beginning comes is ended, and its connection with it."""
    data = _head(f"Content-Encoding: {encoding}", "Content-Length: 1000") + gzip.compress(b"x")
    async with running_service(tmp_path, FakeWorker(), body_grace_seconds=0.1) as running:
        answer = await _raw(running, data)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_too_slow" in answer


async def test_the_oldest_of_too_many_half_read_bodies_is_ended(tmp_path: Path) -> None:
    """Bodies that never end take a bounded amount of memory together; a good one is served."""
    half = _head(f"Content-Length: {LIMIT}") + b" " * (LIMIT - 1)
    async with running_service(
        tmp_path, FakeWorker(), max_request_bytes=LIMIT, body_grace_seconds=60.0
    ) as running:
        slow = [asyncio.create_task(_raw(running, half)) for _ in range(34)]
        done, pending = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        status, _, _ = await running.post(chat("Hi"))
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    assert done
    assert all(task.result().startswith(b"HTTP/1.1 408 ") for task in done)
    assert status == 200


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"5\r\nabcdeXX", 400),
        (b"zz\r\n", 400),
        (b"1\r\n{\r\n" + b"1\r\n}\r\n" * 5000 + b"0\r\n\r\n", 400),
        (b"2\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n", 200),
        (b"1\r\n \r\n" * (LIMIT + 1) + b"0\r\n\r\n", 413),
    ],
    ids=["no-line-end", "no-size", "small", "trailer", "too-many"],
)
async def test_chunked_bodies_are_bounded_and_judged(
    tmp_path: Path, rest: bytes, status: int
) -> None:
    """Broken framing, many small chunks and trailers get their status, and the client sees it."""
    data = _head("Transfer-Encoding: chunked", "Connection: close") + rest
    async with running_service(tmp_path, FakeWorker(), max_request_bytes=LIMIT) as running:
        answer = await _raw(running, data)

    assert answer.split()[1] == str(status).encode()


@pytest.mark.parametrize("depth", [100, 253, 255, 300, 1500])
async def test_deep_bodies_never_fail_the_router(tmp_path: Path, depth: int) -> None:
    """A body is served or refused with 400 whatever its depth."""
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        nested: Any = f"{opening * depth}{'0' if opening != '[' else ''}{closing * depth}"
        bodies = [
            f'{{"messages": [{{"role": "user", "content": {nested}}}], "max_tokens": 1}}',
            f'{{"messages": [], "max_tokens": 1, "metadata": {nested}}}',
        ]
        async with running_service(tmp_path, FakeWorker()) as running:
            codes = {(await running.post(body.encode()))[0] for body in bodies}

        assert codes <= {200, 400}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", [{"role": "user", "content": ""}] * 20_000),
        ("messages", [{}] * 260_000),
        ("prompt", [[1]] * 3000 + ["x" * 20_000]),
        ("metadata", [[]] * 260_000),
    ],
)
async def test_too_many_values_are_refused_here(tmp_path: Path, field: str, value: Any) -> None:
    """What a worker would refuse for its number of values is refused before any worker is asked."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker) as running:
        path = COMPLETIONS if field == "prompt" else CHAT
        status, document, _ = await running.post({field: value, "max_tokens": 1}, path)

    assert (status, worker.seen) == (400, [])
    assert "at most" in document["error"]["message"]

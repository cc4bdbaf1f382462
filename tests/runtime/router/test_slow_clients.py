"""Clients that are slow, endless or many: each is bounded, and others are served."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import (
    CHAT,
    RunningService,
    chat,
    eventually,
    running_service,
)

pytestmark = pytest.mark.anyio

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@asynccontextmanager
async def _connection(
    running: RunningService, **options: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    port = int(running.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _until_closed(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


async def test_half_a_head_is_408(tmp_path: Path) -> None:
    """Headers that do not end are answered, and the connection is closed."""
    async with (
        running_service(tmp_path, FakeWorker(), head_seconds=0.2) as running,
        _connection(running) as (reader, writer),
    ):
        writer.write(HEALTH)
        answer = await _until_closed(reader)

    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_steady_head_without_an_end_is_closed(tmp_path: Path) -> None:
    """Headers that come one after the other have no more time than others."""
    async with (
        running_service(tmp_path, FakeWorker(), head_seconds=0.2) as running,
        _connection(running) as (reader, writer),
    ):
        answering = asyncio.create_task(_until_closed(reader))
        writer.write(HEALTH)
        while not answering.done():
            writer.write(b"X: y\r\n")
            await asyncio.sleep(0.02)

    assert answering.result()[9:12] in (b"408", b"")  # what was written after it may reset it


async def test_an_idle_connection_is_no_slow_head(tmp_path: Path) -> None:
    """A connection kept between requests, or opened ahead, outlives the time for headers."""
    async with (
        running_service(tmp_path, FakeWorker(), head_seconds=0.1) as running,
        _connection(running) as (reader, writer),
    ):
        for _ in range(2):
            await asyncio.sleep(0.4)
            writer.write(HEALTH + b"\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            await reader.readexactly(15)

    assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "lines",
    [
        [b"X: " + b"x" * 100_000],
        [b"x" * 100_000 + b": y"],
        [b"X: y"] * 1000,
        [b"X: " + b"y" * 8000] * 20,
    ],
    ids=["value", "name", "many", "large-together"],
)
async def test_a_large_head_is_431(tmp_path: Path, lines: list[bytes]) -> None:
    """A head with too large, too many, or in all too many headers is refused before its end."""
    async with (
        running_service(tmp_path, FakeWorker()) as running,
        _connection(running) as (reader, writer),
    ):
        writer.write(HEALTH)
        for line in lines:
            writer.write(line + b"\r\n")
            await asyncio.sleep(0)
        answer = await _until_closed(reader)
        status, _ = await running.get("/health")

    assert answer.split()[1:2] in ([b"431"], [])  # it may be lost with the rest of what was sent
    assert status == 200


async def test_an_endless_header_is_cut_off(tmp_path: Path) -> None:
    """A client that never stops to write one header is closed after a bounded number of bytes."""
    sent = 0
    async with (
        running_service(tmp_path, FakeWorker()) as running,
        _connection(running) as (_, writer),
    ):
        writer.write(HEALTH + b"X: ")
        try:
            while sent < 2**28:
                writer.write(b"x" * 65536)
                await asyncio.wait_for(writer.drain(), 5)
                sent += 65536
        except ConnectionError:
            pass

    assert sent < 2**26


async def test_idle_connections_leave_room(tmp_path: Path) -> None:
    """With every place taken by idle connections, health checks and requests are served."""
    async with running_service(tmp_path, FakeWorker(), max_connections=32) as running:
        port = int(running.url.rpartition(":")[2])
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for _, writer in idle[::2]:
            writer.write(HEALTH)
        async with _connection(running) as (reader, writer):
            writer.write(HEALTH + b"\r\n")
            line = await asyncio.wait_for(reader.readline(), 5)
        status, _, _ = await running.post(chat("x"))
        left = running.service.connections()
        for _, writer in idle:
            writer.transport.abort()

    assert b" 200 " in line
    assert status == 200
    assert left <= 33


async def test_slow_bodies_leave_room(tmp_path: Path) -> None:
    """With every place taken by bodies that do not come, the late ones go for a health check."""
    async with running_service(tmp_path, FakeWorker(), max_connections=16) as running:
        port = int(running.url.rpartition(":")[2])
        slow = [await asyncio.open_connection("127.0.0.1", port) for _ in range(16)]
        for _, writer in slow:
            writer.write(
                f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                "Content-Length: 9\r\n\r\n{".encode()
            )
        await eventually(lambda: running.service.in_flight >= 16)
        for _ in range(100):
            async with _connection(running) as (reader, writer):
                writer.write(HEALTH + b"\r\n")
                answer = await _until_answered(reader)
            if answer:
                break
            await asyncio.sleep(0.05)
        for _, writer in slow:
            writer.transport.abort()

    assert b" 200 " in answer


async def _until_answered(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.readline(), 5)
    except ConnectionError:
        return b""


async def test_streams_are_not_evicted(tmp_path: Path) -> None:
    """A connection with a request goes on when idle ones take all the places."""
    worker = FakeWorker()
    worker.faults.append(Fault(stall_after_tokens=2))
    async with running_service(tmp_path, worker, max_connections=16) as running:
        streaming = asyncio.create_task(running.stream(chat("x")))
        await eventually(lambda: bool(worker.seen))
        port = int(running.url.rpartition(":")[2])
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        worker.resume.set()
        streamed = await streaming
        for _, writer in idle:
            writer.transport.abort()

    assert streamed.ended


async def test_a_reader_that_stops_frees_the_worker(tmp_path: Path) -> None:
    """A client that reads no more is given up after a while, and its worker's request with it."""
    worker = FakeWorker(tokens_per_event=64)
    body = json.dumps(chat("x", max_tokens=2_000_000, stream=True)).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    async with (
        running_service(tmp_path, worker, reader_seconds=0.4) as running,
        _connection(running, limit=1024) as (_, writer),
    ):
        writer.write(head + body)
        await eventually(lambda: bool(worker.seen), 10)
        await eventually(lambda: worker.seen[0].cancelled, 30)
        await eventually(lambda: not running.service.in_flight)


async def test_a_whole_answer_that_is_not_read_is_given_up(tmp_path: Path) -> None:
    """A connection whose answers nobody reads is closed, though it is asked for more and more."""
    async with (
        running_service(tmp_path, FakeWorker(), reader_seconds=0.4) as running,
        _connection(running, limit=1024) as (_, writer),
    ):
        get = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"

        async def flood() -> None:
            while True:
                writer.write(get * 50)
                await writer.drain()

        flooding = asyncio.create_task(flood())
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(flooding, 30)
        await eventually(lambda: not running.service.in_flight)

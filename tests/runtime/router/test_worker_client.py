"""The client that talks to workers: framing, reuse, broken and hostile answers, back-pressure."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from steelyard_runtime.router import worker_client
from steelyard_runtime.router.worker_client import ConnectError, WorkerClient, WorkerKey
from steelyard_runtime.testing.fake_worker import FakeWorker
from steelyard_runtime.testing.router_service import CHAT, chat, eventually, running_service

pytestmark = pytest.mark.anyio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"


@asynccontextmanager
async def server(
    *replies: bytes, keep: bool = True
) -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """Run a server that gives these bytes for each request; yields its URL and its connections."""
    connections: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(2)
            for reply in replies:
                writer.write(reply)
                await writer.drain()
                await asyncio.sleep(0)
            if not keep:
                break
        writer.close()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(quiet, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", connections
    finally:
        listening.close()
        for writer in connections:
            writer.transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)  # Both ends learn of it.


@pytest.mark.parametrize(
    "replies",
    [
        (CHUNKED,),
        tuple(bytes([one]) for one in CHUNKED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc", b"def"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX: y\r\n\r\nabcdef",),
    ],
    ids=["chunked", "byte-by-byte", "length-in-two", "length"],
)
async def test_framed_answers_are_read_and_the_connection_reused(
    replies: tuple[bytes, ...],
) -> None:
    """Answers of both framings are read to their end, however they arrive; one connection does."""
    client = WorkerClient(WorkerKey(), 1.0)
    async with server(*replies) as (url, connections):
        for _ in range(3):
            answer = await client.post(url, "/x", b"{}", {})
            body = await answer.read()
            answer.close()
            assert (answer.status, body) == (200, b"abcdef")
        assert len(connections) == 1
        client.close()


async def test_connections_that_are_idle_for_long_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are closed without a next request, and a young one stays."""
    client = WorkerClient(WorkerKey(), 1.0)
    async with server(CHUNKED) as (url, connections):
        answer = await client.post(url, "/x", b"{}", {})
        await answer.read()
        answer.close()
        client.close_old()
        await asyncio.sleep(0)
        young = connections[0].transport.is_closing()
        monkeypatch.setattr(worker_client, "_IDLE_SECONDS", 0.0)
        client.close_old()
        await eventually(connections[0].transport.is_closing)

    assert not young


async def test_relayed_bytes_are_those_of_the_body() -> None:
    """A relay gives what came before it and what comes after, in order."""
    client = WorkerClient(WorkerKey(), 1.0)
    seen: list[bytes] = []
    async with server(*(bytes([one]) for one in CHUNKED)) as (url, _):
        answer = await client.post(url, "/x", b"{}", {})
        await answer.relay(seen.append)
        answer.close()
        client.close()

    assert b"".join(seen) == b"abcdef"


async def test_body_may_end_with_the_connection() -> None:
    """Without framing the end of the connection is the end of the body."""
    client = WorkerClient(WorkerKey(), 1.0)
    async with server(b"HTTP/1.1 200 OK\r\n\r\nabcdef", keep=False) as (url, _):
        answer = await client.post(url, "/x", b"{}", {})
        assert await answer.read() == b"abcdef"
        answer.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["silence", "not-http", "short-length", "short-chunks", "bad-chunk"],
)
async def test_broken_answers_are_connection_errors(reply: bytes) -> None:
    """Every way to break off or to talk nonsense is one kind of error."""
    client = WorkerClient(WorkerKey(), 1.0)
    async with server(reply, keep=False) as (url, _):
        with pytest.raises(ConnectionError):
            await _post_and_read(client, url)


async def _post_and_read(client: WorkerClient, url: str) -> None:
    answer = await client.post(url, "/x", b"{}", {})
    try:
        await answer.read()
    finally:
        answer.close()


async def test_refused_connection_is_told_apart() -> None:
    """A worker that was never reached certainly did not begin."""
    async with server(b"") as (url, _):
        pass
    with pytest.raises(ConnectError):
        await WorkerClient(WorkerKey(), 1.0).post(url, "/x", b"{}", {})


async def test_error_of_the_sink_ends_the_relay() -> None:
    """What the sink raises comes out of `relay`."""

    def sink(data: bytes) -> None:
        raise ZeroDivisionError

    client = WorkerClient(WorkerKey(), 1.0)
    async with server(*(bytes([one]) for one in CHUNKED)) as (url, _):
        answer = await client.post(url, "/x", b"{}", {})
        with pytest.raises(ZeroDivisionError):
            await answer.relay(sink)
        answer.close()
        client.close()


async def test_slow_client_slows_the_worker(tmp_path: Path) -> None:
    """A client that reads nothing stops the worker's stream instead of filling the router."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker) as running:
        body = json.dumps(chat(stream=True, max_tokens=200_000)).encode()
        transport = await running.send_raw(body)
        transport.pause_reading()
        relays = running.service.sweeper.waits
        await eventually(lambda: any(one.paused for one in relays), 20.0)
        finished = worker.seen[0].finished
        transport.resume_reading()
        await eventually(lambda: not any(one.paused for one in relays))
        transport.abort()
        await eventually(lambda: worker.seen[0].cancelled)

    assert not finished


async def test_old_clients_get_a_stream_too(tmp_path: Path) -> None:
    """An HTTP/1.0 client gets the events unframed and the end of the connection as their end."""
    async with running_service(tmp_path, FakeWorker()) as running:
        port = int(running.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps(chat(stream=True)).encode()
        head = f"POST {CHAT} HTTP/1.0\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read()
        writer.close()

    head, _, events = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert events.startswith(b"data: {")
    assert events.endswith(b"data: [DONE]\n\n")

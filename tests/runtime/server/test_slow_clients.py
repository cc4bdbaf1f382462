"""Clients that send or read slowly, or not at all: each is bounded, and nobody else notices."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.server.connections import ConnectionLimits, Connections, within_files
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig, running_worker

pytestmark = pytest.mark.anyio

# Short enough for a test; those for which no test waits are as in a worker.
SHORT = ConnectionLimits(
    head_seconds=1.5,
    first_seconds=1.5,
    keep_alive_seconds=2.0,
    body_seconds=1.5,
    refused_body_seconds=1.5,
    reader_seconds=0.3,
    gives_way_seconds=0.0,
    sweep_seconds=0.05,
)
PATIENT = ConnectionLimits(sweep_seconds=0.05)
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
END_SECONDS = 20.0


@asynccontextmanager
async def connected(rig: Rig) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a connection to the serving port."""
    url = rig.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer_to(rig: Rig, sent: bytes, *, drip: bytes = b"") -> bytes:
    """Return all that comes until the worker closes; `drip` is sent again and again."""
    async with connected(rig) as (reader, writer):
        writer.write(sent)

        async def drop() -> None:
            while drip and not writer.is_closing():
                writer.write(drip)
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drop())
        try:
            async with asyncio.timeout(END_SECONDS):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            dripping.cancel()


NEVER_ENDING = [
    (b"", b"", b""),
    (b"", b"\r\n", b""),
    (b"GET /hea", b"", b" 408 "),
    (HEAD, b"", b" 408 "),
    (HEAD, b"X-A: b\r\n", b" 408 "),
    (HEAD + b"Content-Length: 100\r\n\r\n{", b"", b" 408 "),
    (HEAD + b"Content-Length: 100000\r\n\r\n{", b" ", b" 408 "),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", b" 408 "),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;", b"x", b" 408 "),
    (b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", b" ", b" 403 "),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", b" 200 "),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n", b" 200 "),
]


async def test_what_never_ends_is_ended(model: Path) -> None:
    """Connections that send nothing, half a head or half a body are closed, with a 408 if any."""
    async with running_worker(model, connections=SHORT) as rig:
        answers = await asyncio.gather(
            *(answer_to(rig, sent, drip=drip) for sent, drip, _ in NEVER_ENDING)
        )
        served = await rig.complete()

    for (sent, _, said), answer in zip(NEVER_ENDING, answers, strict=True):
        assert said in answer[:20], sent
        assert bool(answer) is bool(said), sent
    assert served.status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"X-A: " + b"a" * 40_000,
        HEAD + b"X-A: b\r\n" * 10_000,
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        HEAD + b"X-A: " + b"a" * 3_000_000 + b"\r\n\r\n",
        HEAD + b"a" * 3_000_000,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X-A: b\r\n" * 10_000,
    ],
    ids=lambda sent: repr(sent[-20:]),
)
async def test_large_heads_are_431(own_rig: Rig, sent: bytes) -> None:
    """Headers beyond the limit are refused while they come."""
    assert b" 431 " in (await answer_to(own_rig, sent))[:20]
    assert (await own_rig.complete()).status_code == 200


async def test_a_large_body_in_good_time_is_served(model: Path) -> None:
    """A body may take its time for as long as enough of it comes."""
    limits = replace(SHORT, body_seconds=0.5, body_bytes_a_second=1000)

    async def slow() -> Any:
        yield b'{"prompt": "a", "x": "'
        for _ in range(6):
            await asyncio.sleep(0.2)
            yield b"x" * 500
        yield b'"}'

    async with running_worker(model, connections=limits) as rig:
        headers = {"content-type": "application/json"}
        answer = await rig.http.post("/v1/completions", content=slow(), headers=headers)

    assert answer.status_code == 200


async def test_a_stream_may_be_silent(model: Path) -> None:
    """A long answer is none of the client's doing: its connection has no limit."""
    async with running_worker(model, connections=SHORT) as rig:
        rig.engine.script = lambda request: Script([65], step_seconds=2.5)
        answer = await rig.complete(stream=True)

    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_reader_that_stops_is_given_up(model: Path) -> None:
    """A stream that nobody reads is aborted in the engine, and its connection closed."""
    async with running_worker(model, connections=SHORT) as rig, connected(rig) as (_, writer):
        rig.engine.script = lambda request: Script([65] * 4000, None, tokens_per_output=4)
        body = b'{"prompt":"a","stream":true,"max_tokens":4000,"logprobs":20,"n":16}'
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await rig.until(lambda: len(rig.engine.aborted) == 16, "the sequences are aborted")
        await rig.until(lambda: not rig.parts.state.open_requests, "the request has ended")


async def test_a_client_that_closes_its_side_is_gone(own_rig: Rig) -> None:
    """Half a connection holds nothing: its sequence is aborted."""
    own_rig.engine.script = lambda request: Script([65] * 9, hold_after=1)
    body = b'{"prompt":"a","stream":true}'
    async with connected(own_rig) as (_, writer):
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        await own_rig.until(lambda: own_rig.engine.added, "the request has begun")
        writer.write_eof()
        await own_rig.until(lambda: own_rig.engine.aborted, "the sequence is aborted")


async def test_idle_connections_give_way(model: Path) -> None:
    """A port that is full of idle connections serves whoever comes."""
    limits = replace(PATIENT, at_most=20, for_probes=2)
    async with running_worker(model, connections=limits) as rig:
        url = rig.http.base_url
        opened = [await asyncio.open_connection(url.host, url.port) for _ in range(60)]
        for _, writer in opened[30:]:
            writer.write(HEAD)
        answers = [await rig.complete() for _ in range(3)]
        held = len(rig.parts.servers[0].connections)
        for _, writer in opened:
            writer.close()

    assert [answer.status_code for answer in answers] == [200] * 3
    assert held <= 22


async def test_probes_are_answered_where_all_are_at_work(model: Path) -> None:
    """With every place at work a probe still gets an answer, and others a 503."""
    limits = replace(PATIENT, at_most=2, for_probes=4)
    async with running_worker(model, connections=limits) as rig:
        rig.engine.script = lambda request: Script([65] * 5, hold_after=1)
        gate = rig.engine.gate
        working = [asyncio.create_task(rig.complete()) for _ in range(2)]
        await rig.until(lambda: len(rig.engine.added) == 2, "both are at work")
        probe = await rig.http.get("/health", headers={"connection": "close"})
        other = await rig.http.get("/v1/models")
        gate.set()
        done = [(await task).status_code for task in working]

    assert (probe.status_code, other.status_code, done) == (200, 503, [200, 200])
    assert other.json()["error"]["code"] == "too_many_connections"


async def test_many_requests_in_one_packet_are_cut(own_rig: Rig) -> None:
    """A connection may have a few requests in hand, not thousands."""
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    few = await answer_to(
        own_rig, one * 10 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    )
    many = await answer_to(own_rig, one * 5000)

    assert few.count(b" 200 OK") == 11
    assert many.count(b" 200 OK") < 5000


class Held:
    """A connection that notes its end."""

    def __init__(self) -> None:
        self.gave_way = False

    def overdue(self, now: float) -> str | None:
        """Never take too long."""
        return None

    def give_way(self) -> None:
        """Note it."""
        self.gave_way = True


def test_who_gives_way() -> None:
    """First who never asked, then who was answered, then an old body; never who is at work."""
    now = [0.0]
    port = Connections(ConnectionLimits(at_most=4, for_probes=1), lambda: now[0])
    fresh, idle, sending, working = (Held() for _ in range(4))
    for connection in (working, sending, idle, fresh):
        assert port.open(connection)
    port.answered(working)
    port.sending(sending)
    port.idle(idle)
    moves: list[Callable[[Held], None]] = [port.answered] * 3
    gave_way = []
    for move in moves:
        now[0] += 10
        newer = Held()
        assert port.open(newer)
        move(newer)
        gave_way.append([held.gave_way for held in (fresh, idle, sending, working)])

    assert gave_way == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
    ]
    last, refused = Held(), Held()
    assert not port.open(last)
    port.answered(last)
    assert not port.open(refused)
    assert (last.gave_way, refused.gave_way, len(port)) == (False, True, 5)


@pytest.mark.parametrize(
    ("files", "share", "at_most", "for_probes"),
    [(65_536, 0.75, 4096, 64), (1024, 0.75, 512, 64), (256, 0.75, 126, 18), (64, 0.2, 8, 1)],
)
def test_connections_fit_into_the_files(
    files: int, share: float, at_most: int, for_probes: int
) -> None:
    """With few files there are fewer connections, and still some for probes."""
    limits = within_files(ConnectionLimits(), share, files)

    assert (limits.at_most, limits.for_probes) == (at_most, for_probes)

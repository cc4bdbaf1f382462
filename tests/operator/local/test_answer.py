"""Asking one question: what is measured, and what a broken answer becomes. A real local server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from steelyard_operator.errors import OperatorError, UserError
from steelyard_operator.local.answer import Answer, ask
from steelyard_operator.local.http_client import HttpError, get_json, request

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def server(*pieces: bytes) -> AsyncIterator[str]:
    """A server that sends these bytes, one write each, to whoever asks; yields its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        writer.close()

    running = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with running:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"


def chunked(*parts: bytes) -> bytes:
    """Return a 200 with a chunked body."""
    body = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def event(**fields: Any) -> bytes:
    """Return one SSE event."""
    return f"data: {json.dumps(fields)}\n\n".encode()


def said(text: str) -> bytes:
    """Return the event of a piece of text."""
    return event(choices=[{"delta": {"content": text}}])


ROLE = event(choices=[{"delta": {"role": "assistant", "content": ""}}])
USAGE = event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 3})
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def clock() -> Callable[[], float]:
    """A clock that goes on by one second whenever it is read."""
    ticks: Iterator[int] = count()
    return lambda: float(next(ticks))


async def asked(url: str, clock: Callable[[], float]) -> tuple[Answer, list[str]]:
    """Ask and return the answer and the pieces that were shown."""
    shown: list[str] = []
    answer = await ask(url, model="m", prompt="p", max_tokens=8, on_text=shown.append, clock=clock)
    return answer, shown


async def test_times_are_those_of_the_text(clock: Callable[[], float]) -> None:
    """TTFT ends with the first text, not with the role's event; TPOT spans first to last text."""
    body = [ROLE, b": keep-alive\n\n", said("a"), said("b"), said("c"), USAGE, DONE]
    async with server(chunked(*body)) as url:
        answer, shown = await asked(url, clock)

    assert shown == ["a", "b", "c"]
    assert answer == Answer("abc", 1.0, 3.0, 4.0, prompt_tokens=5, completion_tokens=3)
    assert answer.tpot_seconds == 1.0
    assert answer.tokens_per_second == 0.75


async def test_an_event_may_arrive_in_pieces(clock: Callable[[], float]) -> None:
    """Where the network cuts the stream does not matter, not even inside a character."""
    body = said("ä").replace(b"\\u00e4", "ä".encode()) + USAGE + DONE
    async with server(chunked(*(bytes([byte]) for byte in body))) as url:
        answer, _ = await asked(url, clock)

    assert answer.text == "ä"


def test_a_single_token_has_no_tpot() -> None:
    """There is no time between tokens when there is one."""
    assert Answer("a", 1.0, 1.0, 1.0, 5, 1).tpot_seconds is None


NO_SUCH = json.dumps({"error": {"message": "no such model"}}).encode()
BROKEN = {
    "refused": (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(NO_SUCH), NO_SUCH),
        UserError,
        "the service refused the prompt: no such model",
    ),
    "failed": (
        b"HTTP/1.1 503 Unavailable\r\n\r\nno worker",
        OperatorError,
        "the service answered 503: no worker",
    ),
    "error in the stream": (
        chunked(said("a"), event(error={"message": "the worker died"})),
        OperatorError,
        "the answer broke off: the worker died",
    ),
    "cut": (chunked(said("a"))[:-5], OperatorError, "the answer broke off: http://"),
    "ended early": (
        chunked(said("a")),
        OperatorError,
        "the answer broke off: the stream ended early",
    ),
    "no HTTP": (b"hello\r\n\r\n", OperatorError, "the answer is not HTTP/1.1"),
    "nothing": (b"", OperatorError, "the answer is not HTTP/1.1"),
}


@pytest.mark.parametrize(("reply", "kind", "sentence"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_is_one_sentence(
    clock: Callable[[], float], reply: bytes, kind: type[Exception], sentence: str
) -> None:
    """What the service says about the failure is what the user reads."""
    async with server(reply) as url:
        with pytest.raises(OperatorError) as caught:
            await asked(url, clock)

    assert type(caught.value) is kind
    assert sentence in str(caught.value)


async def test_nobody_listens() -> None:
    """A closed port is an error of ours, not a traceback."""
    async with server() as url:
        pass
    with pytest.raises(HttpError):
        await get_json(url)


async def test_a_token_is_sent_as_bearer() -> None:
    """The admin port gets what it asks for."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    running = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with running:
        url = f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}/state"
        assert await get_json(url, token="t0ken") == (200, {})

    assert b"\r\nAuthorization: Bearer t0ken\r\n" in heads[0]


async def test_a_request_ends_with_its_task() -> None:
    """A timeout does not leave a connection behind: the server sees its end."""
    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()
        writer.close()

    running = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with running:
        url = f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}/"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), request("GET", url):
                pass
        await asyncio.wait_for(ended.wait(), 10)

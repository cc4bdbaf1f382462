"""Workers whose image somebody else chose: whatever they answer is bounded and judged."""

import asyncio
import itertools
import json
import resource
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.fake_worker import FakeWorker
from steelyard_runtime.testing.router_service import (
    RunningService,
    chat,
    running_service,
)

pytestmark = pytest.mark.anyio

MEBIBYTE = 1024**2
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Hostile(FakeWorker):
    """A worker that answers probes with 200 and all else with bytes of the test's choice."""

    def __init__(self, parts: Callable[[], Iterable[bytes]]) -> None:
        super().__init__()
        self.parts = parts
        self.sent_bytes = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> "FakeWorker":
        """Listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def kill(self) -> None:
        """Refuse new connections."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith((b"GET /ready", b"GET /health")):
                writer.write(OK + b"Content-Length: 2\r\n\r\n{}")
                return
            for part in self.parts():
                writer.write(part)
                await writer.drain()
                self.sent_bytes += len(part)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def whole(body: bytes, status: str = "200 OK", kind: str = "application/json") -> list[bytes]:
    """Return a complete answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return [head.encode() + body]


def document(**fields: Any) -> bytes:
    """Return a completion."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    return json.dumps({"choices": [], "usage": usage, **fields}).encode()


def endless(head: bytes, part: bytes) -> Callable[[], Iterable[bytes]]:
    """Return an answer that goes on for a gigabyte."""
    return lambda: itertools.chain([head], itertools.repeat(part, 1024**3 // len(part)))


def chunk(data: bytes) -> bytes:
    """Frame data as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(value: object) -> bytes:
    """Frame an event of a stream that is chunked."""
    return chunk(b"data: " + json.dumps(value).encode() + b"\n\n")


BAD: dict[str, Callable[[], Iterable[bytes]]] = {
    "endless-headers": endless(OK, b"X: " + b"y" * 65536 + b"\r\n"),
    "endless-header": endless(OK + b"X: ", b"y" * 65536),
    "endless-body": endless(CHUNKED, chunk(b" " * MEBIBYTE)),
    "endless-error": endless(CHUNKED.replace(b"200 OK", b"400 No"), chunk(b" " * MEBIBYTE)),
    "endless-line": endless(CHUNKED, chunk(b"data: " + b"x" * MEBIBYTE)),
    "endless-100": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "endless-trailers": endless(CHUNKED + b"0\r\n", b"X: " + b"y" * 65536 + b"\r\n"),
    "redirect": lambda: whole(b"", "302 Found\r\nLocation: http://127.0.0.1:9/"),
    "status-999": lambda: whole(b"{}", "999 X"),
    "no-json": lambda: whole(b"<script>"),
    "array": lambda: whole(b"[]"),
    "no-usage": lambda: whole(document(usage=None)),
    "deep": lambda: whole(document(a=json.loads("[" * 300 + "]" * 300))),
    "two-answers": lambda: [*whole(b"[]"), *whole(b"{}")],
    "nothing": list,
}  # fmt: skip
BAD_EVENTS: dict[str, object] = {
    "choices-number": {"choices": 5},
    "choice-number": {"choices": [5]},
    "foreign-index": {"choices": [{"index": 7, "text": "x"}]},
    "index-list": {"choices": [{"index": [], "text": "x"}]},
    "ids-number": {"choices": [{"index": 0, "token_ids": 5}]},
    "usage-number": {"choices": [], "usage": 5},
    "prompt-ids": {"choices": [], "prompt_token_ids": 5},
    "delta-list": {"choices": [{"index": 0, "delta": [1]}]},
    "array": [1],
}


@asynccontextmanager
async def _with_a_good_one(tmp_path: Path, hostile: FakeWorker) -> AsyncIterator[RunningService]:
    good = FakeWorker()
    async with running_service(tmp_path, hostile, good) as running:
        yield running


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("parts", BAD.values(), ids=BAD.keys())
async def test_a_bad_answer_costs_a_retry_and_no_memory(
    tmp_path: Path, parts: Callable[[], Iterable[bytes]], stream: bool
) -> None:
    """Another worker answers, or the request is refused; it costs no memory and is no 500."""
    hostile = Hostile(parts)
    before = _peak_bytes()
    async with _with_a_good_one(tmp_path, hostile) as running:
        codes = set()
        for _ in range(2):
            body = chat("x", stream=stream)
            async with running.client.post(
                running.url + "/v1/chat/completions", json=body, allow_redirects=False
            ) as answer:
                codes.add(answer.status)
                text = await answer.read()
                assert answer.headers["Content-Type"].startswith(("application/json", "text/event"))
        alive, _ = await running.get("/health")

    assert codes <= {200, 400, 502}
    assert b"<script>" not in text
    assert alive == 200
    assert hostile.sent_bytes < 400 * MEBIBYTE
    assert _peak_bytes() - before < 400 * MEBIBYTE


@pytest.mark.parametrize("value", BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
async def test_a_bad_event_is_the_workers_failure(tmp_path: Path, value: object) -> None:
    """A stream whose events are of another form goes on with another worker."""
    hostile = Hostile(lambda: [CHUNKED, event(value), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"])
    async with _with_a_good_one(tmp_path, hostile) as running:
        streams = [await running.stream(chat("x")) for _ in range(2)]

    assert [one.status for one in streams] == [200, 200]
    assert all(one.ended and "error" not in one.events[-1] for one in streams)


@pytest.mark.parametrize("tokens", [10**300, 2**64, -5, 1e400, "5", None, True, [1]])
async def test_numbers_of_usage_do_not_reach_sums(tmp_path: Path, tokens: object) -> None:
    """Counts that cannot be are left out of what planners read, whichever leg reports them."""
    usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
    usage["prompt_tokens_details"] = {"cached_tokens": tokens}
    events = [
        event({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}], "usage": usage})
    ]
    parts = {
        False: whole(document(usage=usage)),
        True: [CHUNKED, *events, chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"],
    }
    for stream in (True, False):
        hostile = Hostile(lambda stream=stream: parts[stream])
        async with running_service(tmp_path, hostile, max_attempts=1) as running:
            answers = (
                [await running.post(chat("x"))] if not stream else [await running.stream(chat("x"))]
            )
            _, sums = await running.get("/router/signals")

        assert answers
        numbers = [sums[name] for name in ("outputTokens", "contextTokens", "cachedTokens")]
        assert all(type(one) is int and 0 <= one < 2**32 for one in numbers)


@pytest.mark.parametrize("retry_after", ["9" * 5000, "²", "-1", "soon"])
async def test_a_damaged_retry_after_is_judged(tmp_path: Path, retry_after: str) -> None:
    """A busy worker's pause is a small number, whatever it says."""
    head = f"HTTP/1.1 429 Busy\r\nRetry-After: {retry_after}\r\nContent-Length: 2\r\n\r\n"
    hostile = Hostile(lambda: [head.encode("latin-1"), b"{}"])
    async with running_service(tmp_path, hostile) as running:
        status, _, headers = await running.post(chat("x"))

    assert status == 429
    assert 1 <= int(headers["retry-after"]) <= 9999


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_workers_doubt_of_our_key_is_not_the_clients(tmp_path: Path, status: str) -> None:
    """A worker that does not know the router's key (yet) is left alone, another one is asked."""
    hostile = Hostile(lambda: whole(b"{}", status))
    async with _with_a_good_one(tmp_path, hostile) as running:
        codes = [(await running.post(chat("x")))[0] for _ in range(3)]

    assert codes == [200, 200, 200]


async def test_pages_of_workers_do_not_reach_browsers(tmp_path: Path) -> None:
    """A refusal that is no JSON becomes a sentence of ours with its status."""
    hostile = Hostile(lambda: whole(b"<script>alert(1)</script>", "400 Bad", "text/html"))
    async with running_service(tmp_path, hostile) as running:
        answers = [
            await running.post(body, path)
            for path, body in (("/v1/completions", {"prompt": "x"}), ("/tokenize", {"prompt": "x"}))
        ]

    for status, got, headers in answers:
        assert (status, got["error"]["code"]) == (400, "refused")
        assert headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/version"])
async def test_pages_about_a_worker_are_bounded(tmp_path: Path, path: str) -> None:
    """Endless pages and redirects of what the router asks for itself cost no memory."""
    elsewhere = FakeWorker()
    await elsewhere.start()
    location = f"HTTP/1.1 302 F\r\nLocation: {elsewhere.url}{path}\r\nContent-Length: 0\r\n\r\n"
    for parts in (endless(CHUNKED, chunk(b"# " * MEBIBYTE)), lambda: [location.encode()]):
        hostile = Hostile(parts)
        before = _peak_bytes()
        async with running_service(
            tmp_path, hostile, member_fields={"role": None}, queue_timeout_seconds=0.5
        ) as running:
            async with running.client.get(running.url + path, allow_redirects=False) as answer:
                text = await answer.read()
            healthy, _ = await running.get("/health")

        assert healthy == 200
        assert b"0.0-fake" not in text
        assert b"8192" not in text
        assert _peak_bytes() - before < 400 * MEBIBYTE
    await elsewhere.kill()

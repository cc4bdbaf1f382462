"""The client of the scenarios notices what a client would notice, and nothing is tried again."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from harness import driver
from harness.driver import Driver
from harness.verdict import complaints, parse

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DONE = "data: [DONE]\n\n"


def event(text: str) -> str:
    """Return one event of a stream."""
    return "data: " + json.dumps({"choices": [{"text": text}]}) + "\n\n"


def answering(*pieces: str, pause_seconds: float = 0.0, status: int = 200) -> Handler:
    """Return a handler that sends some raw pieces and closes the connection."""

    async def handle(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["cache_salt"]
        answer = web.StreamResponse(status=status)
        answer.force_close()
        await answer.prepare(request)
        for piece in pieces:
            await answer.write(piece.encode())
            await asyncio.sleep(pause_seconds)
        return answer

    return handle


@pytest.fixture
def drive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[Handler], list[dict[str, Any]]]:
    """Drive a server with two streams that expect "right"; returns the printed records."""
    monkeypatch.setattr(driver, "STATE", tmp_path / "state.json")
    monkeypatch.setattr(driver, "PAUSE_AFTER_FAILURE_SECONDS", 0.01)

    async def run(handler: Handler) -> None:
        application = web.Application()
        application.router.add_post("/v1/completions", handler)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        plan = {
            "url": f"http://127.0.0.1:{port}",
            "streams": 2,
            "questions": [{"body": {"prompt": "p"}, "answer": "right"}],
        }
        driving = Driver(plan)
        task = asyncio.create_task(driving.drive())
        while driving.finished < 4:  # noqa: ASYNC110  # a number, not an event
            await asyncio.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)
        await task
        await runner.cleanup()

    def records(handler: Handler) -> list[dict[str, Any]]:
        asyncio.run(run(handler))
        return parse(capsys.readouterr().out)

    return records


def judge(records: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong, where nothing was killed and nothing was replayed."""
    return complaints(records, at_least=2, replays=0, replays_allowed=False)


def test_right_answers_are_no_failure(drive: Callable[[Handler], list[dict[str, Any]]]) -> None:
    """Streams go on until SIGTERM, and those that are open then end as well."""
    records = drive(answering(event("ri"), event("ght"), DONE))

    assert len(records) >= 4
    assert judge(records) == []
    assert {record["text"] for record in records} == {""}


FAILURES = {
    "another text": ((event("wrong"), DONE), 200, "the text is not the recorded answer"),
    "a cut stream": ((event("ri"),), 200, "the stream ended without [DONE]"),
    "an error in the stream": (
        (event("ri"), 'data: {"error": {"message": "gone"}}\n\n', DONE),
        200,
        "the stream brought an error",
    ),
    "a refusal": (("busy",), 503, "status 503: busy"),
}


@pytest.mark.parametrize(("pieces", "status", "message"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_a_failure(
    drive: Callable[[Handler], list[dict[str, Any]]],
    pieces: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    """Each request that went wrong is one record that says how."""
    records = drive(answering(*pieces, status=status))

    assert len(judge(records)) == len(records) >= 4
    assert all(message in record["error"] for record in records)


def test_a_refused_connection_is_a_failure(
    drive: Callable[[Handler], list[dict[str, Any]]],
) -> None:
    """A connection that is reset before any answer."""

    async def reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    assert all(record["error"] for record in drive(reset))


def test_the_longest_silence_is_measured(
    drive: Callable[[Handler], list[dict[str, Any]]],
) -> None:
    """Comments that keep a connection open are no text."""
    pieces = (event("ri"), ": keep-alive\n\n", ": keep-alive\n\n", event("ght"), DONE)

    records = drive(answering(*pieces, pause_seconds=0.03))

    assert all(0.08 < record["longest_gap_seconds"] < 5 for record in records)


RECORD: dict[str, Any] = {"number": 0, "error": "", "longest_gap_seconds": 1.0}


def test_silence_beyond_the_limit_is_a_complaint() -> None:
    """30 seconds are allowed, not more."""
    assert judge([RECORD, RECORD | {"longest_gap_seconds": 30.0}]) == []
    assert judge([RECORD, RECORD | {"longest_gap_seconds": 30.1}]) == [
        "request 0 was silent for 30.1 s"
    ]


def test_too_little_traffic_is_a_complaint() -> None:
    """A scenario without streams has shown nothing."""
    assert judge([RECORD]) == ["only 1 requests were made, 2 streams must be open"]


@pytest.mark.parametrize(("allowed", "complained"), [(True, False), (False, True)])
def test_a_cut_stream_is_a_complaint_where_nothing_was_killed(
    allowed: bool, complained: bool
) -> None:
    """A drain lets streams end where they are; only a killed worker's go on elsewhere."""
    found = complaints([RECORD, RECORD], at_least=2, replays=3, replays_allowed=allowed)

    assert bool(found) == complained

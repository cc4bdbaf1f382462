"""What `make bench-flip` counts: arrivals, good requests, flips from labels, and reactions."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from harness.label_watch import Labels, documents
from harness.load_driver import ask
from harness.reactions import reactions, ticks
from harness.service import PREFIX
from harness.swing import ANSWERS, PROMPTS, Goals, Phase, arrivals, crossings, summary

GOALS = Goals(ttft_seconds=2.0, tpot_seconds=0.2)
SWING = [Phase(PROMPTS, 100, 0.5), Phase(ANSWERS, 100, 1.0), Phase(PROMPTS, 100, 0.5)]


def record(at: float, **changes: Any) -> dict[str, Any]:
    times = {"ttft_seconds": 1.0, "tpot_seconds": 0.1, "seconds": 2.0, "error": ""}
    return {"at": at, "kind": "prompts", **times, **changes}


def test_arrivals_are_those_of_their_phases() -> None:
    """In order, about as many as the rate says, and the same for every way to size the service."""
    found = arrivals(SWING, seed=1)

    assert found == arrivals(SWING, seed=1)
    assert [one["at"] for one in found] == sorted(one["at"] for one in found)
    middle = [one for one in found if 100 <= one["at"] < 200]
    assert {one["kind"] for one in middle} == {"answers"}
    assert 70 < len(middle) < 130
    assert crossings(SWING) == [100, 200]


def test_only_what_keeps_both_objectives_is_good() -> None:
    """Late, slow and failed requests are none; the time of late answers counts."""
    records = [
        record(0),
        record(150, kind="answers"),
        record(10, ttft_seconds=2.1),
        record(20, tpot_seconds=0.21),
        record(30, error="status 503"),
        record(299, seconds=101.0),
    ]

    found = summary(records, SWING, GOALS)

    assert (found["requests"], found["failed"], found["good"]) == (6, 1, 3)
    assert found["goodput_requests_per_second"] == pytest.approx(3 / 400, abs=1e-4)
    assert found["phase_1_prompts_good_share"] == 0.25
    assert found["phase_2_answers_good_share"] == 1.0


def pod(name: str, *roles: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {f"{PREFIX}{role}": "true" for role in roles}}}


def test_a_flip_is_a_role_that_went_and_another_that_came() -> None:
    """A worker that starts, or gets its old role back, has not flipped."""
    labels = Labels()
    for at, seen in (
        (0.0, pod("a", "prefill")),
        (0.5, pod("b")),
        (1.0, pod("b", "decode")),
        (10.0, pod("a")),
        (10.5, pod("a")),
        (12.25, pod("a", "decode")),
        (20.0, pod("b")),
        (21.0, pod("b", "decode")),
    ):
        labels.take(seen, at)

    assert labels.flips() == [
        {"pod": "a", "from": "prefill", "to": "decode", "began": 10.0, "seconds": 2.25}
    ]


def test_a_watch_is_a_stream_of_objects() -> None:
    """As kubectl prints them: indented, one after the other."""
    text = "".join(json.dumps(pod(name, "decode"), indent=4) + "\n" for name in ("a", "b"))

    found = documents(text.splitlines(keepends=True))
    assert [one["metadata"]["name"] for one in found] == ["a", "b"]


def entry(second: int, have: str, needed: str, chosen: str) -> str:
    """Return a line of the ledger; splits are written prefill+decode."""

    def split(text: str) -> dict[str, int]:
        return dict(zip(("prefill", "decode"), map(int, text.split("+")), strict=True))

    return json.dumps(
        {
            "service": "ns/swing",
            "time": f"1970-01-01T00:{second // 60:02}:{second % 60:02}+00:00",
            "signals": {"requests": 3, **split(have)},
            "decision": {"needed": split(needed), "split": split(chosen)},
        }
    )


def test_reactions_are_from_the_turn_of_the_traffic_on() -> None:
    """In the signals, decided a tick later, flipped; a turn that nobody sees has nothing."""
    ledger = [
        entry(100, "2+1", "1+2", "1+2"),  # before the turn, which is at 110
        entry(115, "2+1", "2+1", "2+1"),
        entry(125, "2+1", "2+2", "2+1"),
        entry(135, "2+1", "1+2", "1+2"),
        entry(145, "1+2", "1+2", "1+2"),
        entry(215, "1+2", "1+2", "1+2"),
    ]
    flips = [{"began": 3.0}, {"began": 127.5}]

    first, second = reactions(flips, ticks(ledger), 10.0, SWING)

    assert first == {
        "crossing_seconds": 100,
        "signal_after_seconds": 15.0,
        "decided_after_seconds": 25.0,
        "decided_after_ticks": 1,
        "flipped_after_seconds": 27.5,
    }
    assert second == {"crossing_seconds": 200, **dict.fromkeys(list(first)[1:])}


def test_a_request_is_measured_from_its_sending() -> None:
    """A whole stream has latencies, one that is cut or refused an error."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["max_tokens"] == 1:
            return web.Response(status=503, text="no worker")
        answer = web.StreamResponse()
        answer.force_close()
        await answer.prepare(request)
        for _ in range(body["max_tokens"]):
            await answer.write(b'data: {"choices": [{"text": "a"}]}\n\n')
        if body["max_tokens"] == 3:
            await answer.write(b"data: [DONE]\n\n")
        return answer

    async def run() -> list[dict[str, Any]]:
        application = web.Application()
        application.router.add_post("/v1/completions", handle)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        plan = {"url": f"http://127.0.0.1:{runner.addresses[0][1]}", "model": "m", "run": 1}
        async with aiohttp.ClientSession() as session:
            found = [
                await ask(session, plan, {"input_tokens": 5, "output_tokens": tokens}, "1")
                for tokens in (3, 2, 1)
            ]
        await runner.cleanup()
        return found

    whole, cut, refused = asyncio.run(run())

    assert whole["error"] == ""
    assert 0 <= whole["ttft_seconds"] <= whole["seconds"]
    assert cut["error"] == "the stream ended without [DONE]"
    assert refused["error"] == "status 503: no worker"

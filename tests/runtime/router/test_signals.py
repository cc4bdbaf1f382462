"""What a planner learns from a router: sums that only grow, and what is open now."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.router.signals import Latencies
from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import RunningService, chat, running_service

pytestmark = pytest.mark.anyio

SUMS = (
    *("arrived", "inputTokens", "inputTokensSquared", "finished", "outputTokens"),
    *("contextTokens", "prefilledTokens", "cachedTokens"),
)


async def signals(running: RunningService) -> dict[str, Any]:
    """Return the document."""
    status, document = await running.get("/router/signals")
    assert status == 200
    return document


async def test_a_quiet_router_says_zero(tmp_path: Path) -> None:
    """Everything is there from the start, and the process has a name."""
    async with running_service(tmp_path, FakeWorker()) as running:
        first, second = await signals(running), await signals(running)

    assert first == second
    assert first.pop("id")
    assert set(first.pop("ttft") + first.pop("tpot")) == {0}
    assert set(first.values()) == {0}
    assert set(first) == {*SUMS, "backlogTokens", "backlog", "decoding"}


@pytest.mark.parametrize("streams", [True, False])
async def test_finished_requests_add_their_tokens(tmp_path: Path, streams: bool) -> None:
    """Prompts count when they arrive, answers when they have ended; refusals are no demand."""
    async with running_service(tmp_path, FakeWorker()) as running:
        for _ in range(2):
            if streams:
                assert (await running.stream(chat())).status == 200
            else:
                assert (await running.post(chat()))[0] == 200
        await running.post(chat(temprature=1))
        found = await signals(running)

    assert (found["arrived"], found["finished"]) == (2, 2)
    assert found["outputTokens"] == 24
    assert found["contextTokens"] > found["outputTokens"]
    assert found["inputTokens"] > 0
    assert found["inputTokensSquared"] >= found["inputTokens"] ** 2 / 2
    assert (found["backlog"], found["backlogTokens"], found["decoding"]) == (0, 0, 0)
    # Only a stream tells when its first token was there.
    assert (sum(found["ttft"]), sum(found["tpot"])) == ((2, 2) if streams else (0, 0))


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0001, 0), (0.001, 0), (0.0014, 1), (0.002, 2), (0.0021, 3), (1e6, 39)],
)
def test_latencies_fall_into_buckets_of_half_an_octave(seconds: float, bucket: int) -> None:
    """Bucket i holds what took at most 2**(i / 2) ms, the last one everything longer."""
    latencies = Latencies()
    latencies.observe(seconds)

    assert [place for place, count in enumerate(latencies.counts) if count] == [bucket]


async def test_a_stream_without_a_token_is_backlog(tmp_path: Path) -> None:
    """Its prompt waits to be read; in the end it has finished."""
    worker = FakeWorker()
    worker.faults.append(Fault(stall_after_tokens=0))
    async with running_service(tmp_path, worker) as running:
        asking = asyncio.create_task(running.stream(chat()))
        waiting = await until(running, lambda found: found["backlog"] == 1)
        worker.resume.set()
        await asking
        after = await signals(running)

    assert waiting["backlogTokens"] == waiting["inputTokens"] > 0
    assert (waiting["decoding"], waiting["finished"]) == (0, 0)
    assert (after["backlog"], after["finished"]) == (0, 1)


async def test_a_stream_with_tokens_decodes(tmp_path: Path) -> None:
    """It is no backlog any more, and not finished."""
    worker = FakeWorker()
    worker.faults.append(Fault(stall_after_tokens=3))
    async with running_service(tmp_path, worker) as running:
        asking = asyncio.create_task(running.stream(chat()))
        found = await until(running, lambda found: found["decoding"] == 1)
        worker.resume.set()
        await asking

    assert (found["backlog"], found["backlogTokens"], found["finished"]) == (0, 0, 0)


async def until(running: RunningService, condition: Any) -> dict[str, Any]:
    """Return the first document that a condition holds for."""
    async with asyncio.timeout(10):
        while True:
            found = await signals(running)
            if condition(found):
                return found


async def test_what_prefill_had_cached_is_told(tmp_path: Path) -> None:
    """As the prefill worker counted it; a prompt that decode read itself says nothing."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    prefill.cached_tokens = 16
    async with running_service(tmp_path, prefill, decode) as running:
        await running.stream(chat())
        await running.stream(chat())  # Warm on the decode worker by now.
        found = await signals(running)

    assert found["cachedTokens"] == 16
    assert found["inputTokens"] > found["prefilledTokens"] > 16


async def test_usage_that_is_no_number_is_a_bad_answer(tmp_path: Path) -> None:
    """The decode worker reads the prompt itself, and the request is answered."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    prefill.cached_tokens = "many"
    async with running_service(tmp_path, prefill, decode) as running:
        seen = await running.stream(chat())
        found = await signals(running)

    assert seen.ended
    assert found["prefilledTokens"] == 0

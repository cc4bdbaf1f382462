"""Many streams at once while workers fail in every way: each one is still exact."""

import asyncio
import random
from pathlib import Path

import pytest

from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import LONG_PROMPT, chat, eventually, running_service

pytestmark = pytest.mark.anyio

FAULTS = (
    Fault(),
    Fault(die_before_answer=True),
    Fault(die_after_tokens=0),
    Fault(die_after_tokens=1),
    Fault(die_after_tokens=7),
    Fault(stop_after_tokens=5),
    Fault(error_after_tokens=3),
    Fault(die_before_done=True),
    Fault(status=503),
    Fault(status=429, retry_after="1"),
)
BODIES = [
    chat(f"{number} {LONG_PROMPT}", seed=number, n=1 + number % 2, return_token_ids=number > 3)
    for number in range(8)
]


@pytest.mark.parametrize("seed", range(6))
async def test_concurrent_streams_are_exact_under_faults(tmp_path: Path, seed: int) -> None:
    """Eight streams over two prefill and three decode workers that keep failing stay exact."""
    async with running_service(tmp_path, FakeWorker()) as quiet:
        expected = await asyncio.gather(*(quiet.stream(body) for body in BODIES))
    chooser = random.Random(seed)
    workers = [FakeWorker(role) for role in ("prefill", "prefill", "decode", "decode", "decode")]
    for worker in workers:
        worker.tokens_per_event = chooser.choice((1, 1, 3))
        worker.faults.extend(chooser.choices(FAULTS, k=6))
    async with running_service(tmp_path, *workers, max_attempts=30) as running:
        seen = await asyncio.gather(*(running.stream(body) for body in BODIES))
        await eventually(lambda: not running.service.in_flight)
        in_flight = [worker.in_flight for worker in running.service.pool.workers]

    assert all(one.ended for one in seen if one.status == 200)
    assert {one.status for one in seen} <= {200, 429}
    for one, other in zip(seen, expected, strict=True):
        if one.status == 200:
            for index in (0, 1):
                assert one.text(index) == other.text(index)
                assert one.token_ids(index) == other.token_ids(index)
            assert len({event["id"] for event in one.events}) == 1
    assert in_flight == [0] * 5

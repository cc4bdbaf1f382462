"""Requests that end workers are given up after two of them; others on the same workers are not."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import (
    COMPLETIONS,
    RunningService,
    chat,
    eventually,
    running_service,
)

pytestmark = pytest.mark.anyio

POISON = {"prompt": "poison " * 60, "max_tokens": 4}


class Mortal(FakeWorker):
    """A worker whose process ends when it begins a request with the word `poison`."""

    deadly = staticmethod(lambda body: "poison" in json.dumps(body))

    def __init__(self, role: str = "both", **options: Any) -> None:
        super().__init__(role, **options)
        self.begun = 0
        self.dying: asyncio.Task[None] | None = None

    async def _answer(
        self, request: web.Request, body: dict[str, Any], fault: Fault
    ) -> web.StreamResponse:
        if self.deadly(body):
            self.begun += 1
            self.dying = asyncio.create_task(self.kill())
            await asyncio.sleep(30)
        return await super()._answer(request, body, fault)


def _begun(workers: list[Mortal]) -> int:
    return sum(worker.begun for worker in workers)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("roles", [("both",) * 4, ("prefill", "prefill", "decode", "decode")])
async def test_a_request_that_ends_workers_is_given_up(
    tmp_path: Path, stream: bool, roles: tuple[str, ...]
) -> None:
    """Two workers die of it, on whichever leg; it gets 502, and no third one is asked."""
    workers = [Mortal(role) for role in roles]
    async with running_service(tmp_path, *workers) as running:
        status, document, _ = await running.post({**POISON, "stream": stream}, COMPLETIONS)
        served, _, _ = await running.post(chat("Hi"))

    assert _begun(workers) == 2
    assert (status, document["error"]["code"]) == (502, "request_ends_workers")
    assert served == 200


@pytest.mark.parametrize(
    "again", [{"stream": True}, {"seed": 9}, {"user": "x"}, {"model": "fake"}, {"cache_salt": "y"}]
)
async def test_it_is_remembered(tmp_path: Path, again: dict[str, Any]) -> None:
    """The same request, streamed or with another seed or user, is refused without a worker."""
    workers = [Mortal() for _ in range(3)]
    async with running_service(tmp_path, *workers) as running:
        await running.post(POISON, COMPLETIONS)
        status, document, _ = await running.post({**POISON, **again}, COMPLETIONS)
        other, _, _ = await running.post({**POISON, "prompt": "harmless"}, COMPLETIONS)

    assert _begun(workers) == 2
    assert (status, document["error"]["code"]) == (400, "request_ends_workers")
    assert other == 200


async def test_bystanders_are_served(tmp_path: Path) -> None:
    """Requests that wait beside the poison on a worker that dies are answered."""
    workers = [Mortal() for _ in range(3)]
    for worker in workers:
        worker.faults.extend([Fault(stall_after_tokens=0)] * 2)
    async with running_service(tmp_path, *workers) as running:
        good = [asyncio.create_task(running.stream(chat(f"{n}"))) for n in range(6)]
        await eventually(lambda: sum(len(worker.seen) for worker in workers) == 6)
        for worker in workers:
            worker.faults.clear()
        bad = asyncio.create_task(running.post(POISON, COMPLETIONS))
        await eventually(lambda: _begun(workers) > 0)
        for worker in workers:
            worker.resume.set()
        status, _, _ = await bad
        streamed = await asyncio.gather(*good)

    assert status == 502
    assert _begun(workers) == 2
    assert all(one.ended and "error" not in one.events[-1] for one in streamed)


async def test_broken_connections_are_no_deaths(tmp_path: Path) -> None:
    """A request whose connections break while the workers live goes on to the next."""
    workers = [FakeWorker() for _ in range(3)]
    for worker in workers[:3]:
        worker.faults.append(Fault(die_before_answer=True))
    async with running_service(tmp_path, *workers) as running:
        status, _, _ = await running.post(chat("Hi"))
        again, _, _ = await running.post(chat("Hi"))

    assert (status, again) == (200, 200)
    assert sum(len(worker.seen) for worker in workers) == 5


async def test_deaths_after_the_first_token_do_not_count(tmp_path: Path) -> None:
    """A stream that loses three workers midway is whole: a worker dies of what it begins."""
    workers = [FakeWorker(event_gap_seconds=0.01) for _ in range(4)]
    async with running_service(tmp_path, *workers) as running:
        streaming = asyncio.create_task(running.stream(chat("Hi", max_tokens=60)))
        for _ in range(3):
            await _kill_the_one_that_streams(running, workers)
        streamed = await streaming
        again = await running.stream(chat("Hi"))

    assert streamed.ended
    assert streamed.events[-1]["choices"][0]["finish_reason"] == "length"
    assert again.ended


async def _kill_the_one_that_streams(running: RunningService, workers: list[FakeWorker]) -> None:
    def streaming() -> list[FakeWorker]:
        return [w for w in workers if any(not s.finished and not s.cancelled for s in w.seen)]

    await eventually(lambda: len(streaming()) == 1)
    tokens = await running.metric("ttft_seconds_count", model="fake")
    for _ in range(100):
        if tokens:
            break
        tokens = await running.metric("ttft_seconds_count", model="fake")
    victim = streaming()[0]
    await victim.kill()
    await eventually(lambda: victim not in streaming())


async def test_two_deaths_that_others_share_convict_nobody(tmp_path: Path) -> None:
    """Where two suspects are on a worker that dies, neither is given up for it."""
    workers = [FakeWorker() for _ in range(3)]
    for worker in workers:
        worker.faults.extend([Fault(stall_after_tokens=0)] * 2)
    async with running_service(tmp_path, *workers) as running:
        asked: Callable[[FakeWorker], int] = lambda worker: len(worker.seen)  # noqa: E731
        good = [asyncio.create_task(running.stream(chat(f"{n}"))) for n in range(6)]
        await eventually(lambda: sum(map(asked, workers)) == 6)
        await workers[0].kill()
        await eventually(lambda: sum(map(asked, workers[1:])) == 6)
        await workers[1].kill()
        workers[2].resume.set()
        streamed = await asyncio.gather(*good)

    assert all(one.ended and "error" not in one.events[-1] for one in streamed)

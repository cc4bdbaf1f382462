"""A stream whose worker fails goes on elsewhere, and its client cannot tell."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import (
    CHAT,
    COMPLETIONS,
    Streamed,
    chat,
    eventually,
    running_service,
)

pytestmark = pytest.mark.anyio

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, chat()),
    "chat-usage": (CHAT, chat(stream_options={"include_usage": True})),
    "chat-token-ids": (CHAT, chat(return_token_ids=True)),
    "chat-two-choices": (CHAT, chat(n=2, stream_options={"include_usage": True})),
    "completion": (COMPLETIONS, {"prompt": "once " * 80, "max_tokens": 9}),
    "completion-token-ids": (COMPLETIONS, {"prompt": [5] * 99, "return_token_ids": True}),
}
FAULTS = {
    "refused": Fault(die_before_answer=True),
    "before-first-token": Fault(die_after_tokens=0),
    "after-first-token": Fault(die_after_tokens=1),
    "midway": Fault(die_after_tokens=5),
    "ends-early": Fault(stop_after_tokens=4),
    "error-event": Fault(error_after_tokens=3),
    "unavailable": Fault(status=503),
    "server-error": Fault(status=500),
    "busy": Fault(status=429, retry_after="3"),
}


async def _undisturbed(folder: Path, path: str, body: dict[str, Any]) -> Streamed:
    async with running_service(folder, FakeWorker("decode")) as running:
        return await running.stream(body, path)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize(("path", "body"), BODIES.values(), ids=BODIES.keys())
async def test_stream_equals_an_undisturbed_one(
    tmp_path: Path, path: str, body: dict[str, Any], fault: Fault
) -> None:
    """Whatever a decode worker's failure is, the client gets the stream of a quiet run."""
    expected = await _undisturbed(tmp_path, path, body)
    first, second = FakeWorker("decode"), FakeWorker("decode")
    first.faults.append(fault)
    async with running_service(tmp_path, first, second) as running:
        seen = await running.stream(body, path)

    assert not first.faults
    assert expected.chunks == seen.chunks
    assert seen.ended
    assert len({event["id"] for event in seen.events}) == 1


async def test_whole_answer_survives_a_broken_worker(tmp_path: Path) -> None:
    """An answer that does not stream is asked for again elsewhere, with the same seed."""
    first, second = FakeWorker("decode"), FakeWorker("decode")
    first.faults.append(Fault(die_before_answer=True))
    async with running_service(tmp_path, first, second) as running:
        status, document, _ = await running.post(chat())

    assert status == 200
    assert "kv_transfer_params" not in document
    assert first.seen[0].body["seed"] == second.seen[0].body["seed"]


async def test_second_worker_may_fail_too(tmp_path: Path) -> None:
    """A stream goes on over as many failures as attempts are allowed."""
    expected = await _undisturbed(tmp_path, CHAT, chat())
    workers = [FakeWorker("decode") for _ in range(3)]
    workers[0].faults.append(Fault(die_after_tokens=3))
    workers[1].faults.append(Fault(die_after_tokens=4))
    async with running_service(tmp_path, *workers) as running:
        seen = await running.stream(chat())
        done = await running.metric("replays_total", result="done")

    assert expected.chunks == seen.chunks
    assert len(workers[2].seen[0].body["steelyard"]["resume_token_ids"]) == 7
    assert done == 1


async def test_choices_cut_into_other_chunks_are_joined_exactly(tmp_path: Path) -> None:
    """With n = 2 the replaying worker may cut its chunks anywhere: text and ids stay exact."""
    body = chat(n=2, return_token_ids=True)
    expected = await _undisturbed(tmp_path, CHAT, body)
    first = FakeWorker("decode", tokens_per_event=2)
    second = FakeWorker("decode", tokens_per_event=5)
    first.faults.append(Fault(die_after_tokens=8))
    async with running_service(tmp_path, first, second) as running:
        seen = await running.stream(body)

    assert [expected.text(0), expected.text(1)] == [seen.text(0), seen.text(1)]
    assert [expected.token_ids(0), expected.token_ids(1)] == [seen.token_ids(0), seen.token_ids(1)]
    assert seen.ended


async def test_finished_stream_needs_no_other_worker(tmp_path: Path) -> None:
    """A worker that dies between its last token and `[DONE]` costs nothing; usage is complete."""
    body = chat(stream_options={"include_usage": True})
    expected = await _undisturbed(tmp_path, CHAT, body)
    only = FakeWorker("decode")
    only.faults.append(Fault(die_after_tokens=12))
    async with running_service(tmp_path, only) as running:
        seen = await running.stream(body)

    assert expected.chunks == seen.chunks
    assert len(only.seen) == 1


async def test_error_of_the_request_is_passed_on(tmp_path: Path) -> None:
    """An error event that is the client's own fault ends the stream without a replay."""
    first, second = FakeWorker("decode"), FakeWorker("decode")
    error = {"message": "too long", "type": "invalid_request_error", "code": "context"}
    first.faults.append(Fault(error_after_tokens=2, error=error))
    async with running_service(tmp_path, first, second) as running:
        seen = await running.stream(chat())

    assert error == seen.events[-1]["error"]
    assert seen.ended
    assert second.seen == []


async def test_engine_without_token_ids_ends_with_an_error(tmp_path: Path) -> None:
    """Where a worker sends no token ids, a stream broken midway ends with an error event."""
    first, second = (FakeWorker("decode", token_ids=False) for _ in range(2))
    first.faults.append(Fault(die_after_tokens=5))
    async with running_service(tmp_path, first, second) as running:
        seen = await running.stream(chat())
        failed = await running.metric("replays_total", result="failed")

    assert seen.events[-1]["error"]["code"] == "stream_lost"
    assert seen.ended
    assert failed == 1


async def test_engine_without_token_ids_is_retried_before_its_first_token(tmp_path: Path) -> None:
    """Such an engine's stream is begun again elsewhere while no text went out."""
    expected = await _undisturbed(tmp_path, CHAT, chat())
    first, second = (FakeWorker("decode", token_ids=False) for _ in range(2))
    first.faults.append(Fault(die_after_tokens=0))
    async with running_service(tmp_path, first, second) as running:
        seen = await running.stream(chat())

    assert expected.text() == seen.text()


async def test_stopped_worker_is_left_behind(tmp_path: Path) -> None:
    """A worker that stalls and answers no probe (SIGSTOP) loses its stream to another one."""
    expected = await _undisturbed(tmp_path, CHAT, chat())
    first, second = FakeWorker("decode"), FakeWorker("decode")
    first.faults.append(Fault(stall_after_tokens=4))
    first.answers_probes = False
    async with running_service(
        tmp_path, first, second, stall_seconds=0.1, probe_timeout_seconds=0.1, patience_seconds=0.2
    ) as running:
        seen = await running.stream(chat())

    assert expected.chunks == seen.chunks


async def test_slow_worker_that_lives_is_waited_for(tmp_path: Path) -> None:
    """A worker that is silent but answers probes keeps its stream."""
    first, second = FakeWorker("decode"), FakeWorker("decode")
    first.faults.append(Fault(stall_after_tokens=4))
    async with running_service(
        tmp_path, first, second, stall_seconds=0.02, probe_timeout_seconds=1.0
    ) as running:
        streaming = asyncio.create_task(running.stream(chat()))
        await eventually(lambda: running.service.pool.workers[0].probed_alive_seconds > 0)
        first.resume.set()
        seen = await streaming

    assert seen.ended
    assert second.seen == []


async def test_busy_worker_keeps_its_streams(tmp_path: Path) -> None:
    """A worker whose event loop is held misses probes: it gets no new request, and loses none."""
    first, second = FakeWorker("decode"), FakeWorker("decode")
    first.faults.append(Fault(stall_after_tokens=4))
    first.answers_probes = False
    async with running_service(
        tmp_path, first, second, stall_seconds=0.05, probe_timeout_seconds=0.05, patience_seconds=60
    ) as running:
        streaming = asyncio.create_task(running.stream(chat()))
        busy = running.service.pool.workers[0]
        await eventually(lambda: busy.ejected)
        other = await running.stream(chat("x"))
        await asyncio.sleep(0.2)  # some more probes
        first.answers_probes = True
        first.resume.set()
        seen = await streaming
        await eventually(lambda: not busy.ejected)

    assert seen.ended
    assert other.ended
    assert (len(first.seen), len(second.seen)) == (1, 1)


async def test_worker_that_cannot_be_reached_is_not_waited_for(tmp_path: Path) -> None:
    """Silence and a refused connection end the wait at once, however long the patience."""
    expected = await _undisturbed(tmp_path, CHAT, chat())
    first, second = FakeWorker("decode"), FakeWorker("decode")
    first.faults.append(Fault(stall_after_tokens=4))
    async with running_service(
        tmp_path, first, second, stall_seconds=0.3, patience_seconds=60.0
    ) as running:
        streaming = asyncio.create_task(running.stream(chat()))
        await eventually(lambda: bool(first.seen))
        await first.refuse()
        seen = await asyncio.wait_for(streaming, 10)

    assert expected.chunks == seen.chunks


async def test_attempts_are_bounded(tmp_path: Path) -> None:
    """A request that every worker fails on ends with one clear error."""
    workers = [FakeWorker("decode") for _ in range(3)]
    for worker in workers:
        worker.faults.extend([Fault(status=500)] * 3)
    async with running_service(tmp_path, *workers, max_attempts=3) as running:
        seen = await running.stream(chat())

    assert seen.status == 502
    assert b"workers_failed" in seen.raw


async def test_all_busy_workers_give_429(tmp_path: Path) -> None:
    """429 goes to another worker; when all are busy the client is told when to come again."""
    workers = [FakeWorker("decode") for _ in range(2)]
    for worker in workers:
        worker.faults.append(Fault(status=429, retry_after="7"))
    async with running_service(tmp_path, *workers) as running:
        status, document, headers = await running.post(chat())

    assert (status, headers["retry-after"]) == (429, "7")
    assert document["error"]["type"] == "rate_limit_error"
    assert [len(worker.seen) for worker in workers] == [1, 1]


@pytest.mark.parametrize("stream", [True, False])
async def test_refusal_of_a_worker_reaches_the_client(tmp_path: Path, stream: bool) -> None:
    """A worker's 400 is the answer: no other worker is asked, no one is ejected."""
    first, second = FakeWorker("decode"), FakeWorker("decode")
    first.faults.append(Fault(status=400))
    async with running_service(tmp_path, first, second) as running:
        status, document, _ = await running.post(chat(stream=stream))
        healthy = [worker.routable for worker in running.service.pool.workers]

    assert (status, document["error"]["message"]) == (400, "status 400")
    assert healthy == [True, True]
    assert second.seen == []

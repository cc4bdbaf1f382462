"""Ejection, readmission, and requests that wait for a worker."""

import asyncio
from pathlib import Path

import pytest

from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import chat, eventually, running_service

pytestmark = pytest.mark.anyio


async def test_dead_worker_is_readmitted_when_it_is_back(tmp_path: Path) -> None:
    """A worker that refuses connections is left out until it is ready again."""
    first, second = FakeWorker(), FakeWorker()
    async with running_service(tmp_path, first, second) as running:
        await first.kill()
        for _ in range(4):
            await running.stream(chat())
        down = await running.metric("worker_healthy", worker=f"w{first.port}")
        await first.start()
        await eventually(lambda: running.service.pool.workers[0].routable)
        await second.kill()
        streamed = await running.stream(chat())

    assert down == 0
    assert len(second.seen) == 4
    assert streamed.ended


async def test_draining_worker_is_left_until_ready(tmp_path: Path) -> None:
    """503 sends the request on, and the worker gets no more until its `/ready` is 200."""
    first, second = FakeWorker(), FakeWorker()
    async with running_service(tmp_path, first, second) as running:
        first.phase = "draining"
        for _ in range(3):
            assert (await running.stream(chat())).ended
        first.phase = "ready"
        await eventually(lambda: running.service.pool.workers[0].routable)

    assert len(second.seen) == 3
    assert len(first.seen) == 1


async def test_refusals_of_draining_workers_cost_no_attempt(tmp_path: Path) -> None:
    """A request that no engine has seen is sent on until a worker takes it."""
    workers = [FakeWorker() for _ in range(6)]
    async with running_service(tmp_path, *workers, max_attempts=2) as running:
        for worker in workers:
            worker.phase = "draining"
        streaming = asyncio.create_task(running.stream(chat()))
        await eventually(lambda: all(worker.seen for worker in workers))
        workers[-1].phase = "ready"
        streamed = await streaming

    assert streamed.ended


async def test_refusals_end_in_time(tmp_path: Path) -> None:
    """Workers that say ready and refuse do not hold a request for ever; 503 says to come again."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker, queue_timeout_seconds=0.5) as running:
        worker.faults.extend([Fault(status=503, code="worker_draining")] * 1000)
        status, document, headers = await running.post(chat())

    assert (status, document["error"]["code"]) == (503, "no_worker")
    assert headers["retry-after"] == "1"
    assert len(worker.seen) < 10


async def test_an_engine_that_died_under_requests_costs_attempts(tmp_path: Path) -> None:
    """A 503 that does not come from the gate may be the request's own doing."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker, max_attempts=2) as running:
        worker.faults.extend([Fault(status=503, code="engine_dead")] * 2)
        status, document, _ = await running.post(chat())

    assert (status, document["error"]["code"]) == (502, "workers_failed")


@pytest.mark.parametrize("path", ["/tokenize", "/version"])
async def test_what_only_workers_know_waits_for_one(tmp_path: Path, path: str) -> None:
    """Without a worker such a request is held like a completion, also where one refuses it."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker) as running:
        running.set_members(worker, phase="loading")
        await eventually(lambda: not running.service.pool.decode_ready())
        method = "GET" if path == "/version" else "POST"
        asking = asyncio.create_task(running.client.request(method, running.url + path, data=b"{}"))
        await eventually(lambda: running.service.in_flight == 1)
        running.set_members(worker)
        answer = await asking
        answer.close()

    assert answer.status == 200


async def test_what_only_workers_know_is_refused_in_time(tmp_path: Path) -> None:
    """No worker within the queue's time: 503."""
    async with running_service(tmp_path, queue_timeout_seconds=0.1) as running:
        status, document, _ = await running.post({"prompt": "x"}, "/tokenize")

    assert (status, document["error"]["code"]) == (503, "no_worker")


async def test_not_ready_before_the_first_membership(tmp_path: Path) -> None:
    """A router that does not know its workers yet says so."""
    async with running_service(tmp_path, FakeWorker()) as running:
        running.service.membership_known = False
        unknown = await running.get("/ready")
        running.service.membership_known = True
        known = await running.get("/ready")

    assert unknown == (503, {"status": "membership not read yet"})
    assert known == (200, {"status": "ready"})


async def test_single_server_errors_do_not_eject(tmp_path: Path) -> None:
    """One 500 may be the request's fault; three in a row eject."""
    first, second = FakeWorker(), FakeWorker("prefill")
    first.faults.extend([Fault(status=500)] * 3)
    async with running_service(tmp_path, first, second, max_attempts=9) as running:
        pool = running.service.pool
        ejected = []
        health = running.service.health
        for _ in range(3):
            health.failed(pool.workers[0])
            ejected.append(pool.workers[0].ejected)

    assert ejected == [False, False, True]


async def test_request_waits_for_a_worker(tmp_path: Path) -> None:
    """With no worker at all a request is held until one appears in the membership."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker) as running:
        running.set_members()
        await eventually(lambda: not running.service.pool.workers)
        streaming = asyncio.create_task(running.stream(chat()))
        await eventually(lambda: running.service.in_flight == 1)
        running.set_members(worker)
        streamed = await streaming

    assert streamed.ended


async def test_request_waits_for_a_worker_that_restarts(tmp_path: Path) -> None:
    """A stream whose only worker dies midway goes on when the worker is back."""
    worker = FakeWorker(event_gap_seconds=0.005)
    async with running_service(tmp_path, worker) as running:
        streaming = asyncio.create_task(running.stream(chat(max_tokens=40)))
        await eventually(lambda: bool(worker.seen))
        await worker.kill()
        await eventually(lambda: running.service.pool.workers[0].ejected)
        await worker.start()
        streamed = await streaming

    assert streamed.ended
    assert streamed.events[-1]["choices"][0]["finish_reason"] == "length"


async def test_prefill_worker_serves_as_a_last_resort(tmp_path: Path) -> None:
    """While no worker decodes, one that prefills serves the whole request."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    async with running_service(tmp_path, prefill, decode) as running:
        await decode.kill()
        streamed = await running.stream(chat())
        ready, _ = await running.get("/ready")

    assert streamed.ended
    assert "kv_transfer_params" not in prefill.seen[-1].body
    assert ready == 503


@pytest.mark.parametrize("stream", [True, False])
async def test_wait_for_a_worker_ends(tmp_path: Path, stream: bool) -> None:
    """After the queue timeout a request without a worker gets 503 and when to come again."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker, queue_timeout_seconds=0.1) as running:
        await worker.kill()
        status, document, headers = await running.post(chat(stream=stream))

    assert (status, headers["retry-after"]) == (503, "1")
    assert document["error"]["code"] == "no_worker"


async def test_readiness_follows_the_decode_workers(tmp_path: Path) -> None:
    """`/ready` is 200 while a decode-capable worker is ready and the router does not drain."""
    worker = FakeWorker("decode")
    async with running_service(tmp_path, worker) as running:
        before, _ = await running.get("/ready")
        running.service.draining = True
        during, _ = await running.get("/ready")
        alive, _ = await running.get("/health")

    assert (before, during, alive) == (200, 503, 200)

"""What a client sees while nothing comes, and what happens when it goes away."""

import json
from pathlib import Path

import pytest

from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import CHAT, chat, eventually, running_service

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("role", ["prefill", "decode"])
async def test_silent_stream_is_kept_alive(tmp_path: Path, role: str) -> None:
    """Comment lines come during a long prefill and a long decode; the stream then goes on."""
    workers = {name: FakeWorker(name) for name in ("prefill", "decode")}
    workers[role].faults.append(Fault(stall_after_tokens=0))
    async with running_service(tmp_path, *workers.values(), sse_keepalive_seconds=0.05) as running:
        body = json.dumps(chat(stream=True))
        async with running.client.post(running.url + CHAT, data=body) as answer:
            first = await answer.content.readuntil(b"\n\n")
            second = await answer.content.readuntil(b"\n\n")
            workers[role].resume.set()
            rest = await answer.content.read()

    assert first == second == b": keep-alive\n\n"
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_error_after_a_keep_alive_is_an_event(tmp_path: Path) -> None:
    """Once a comment was sent the status is 200, so an error comes as an event and ends it."""
    worker = FakeWorker()
    async with running_service(
        tmp_path, worker, sse_keepalive_seconds=0.05, queue_timeout_seconds=0.3
    ) as running:
        await worker.kill()
        streamed = await running.stream(chat())

    assert streamed.status == 200
    assert streamed.events[-1]["error"]["code"] == "no_worker"
    assert streamed.ended


@pytest.mark.parametrize("tokens", [0, 3])
async def test_client_that_leaves_frees_the_worker(tmp_path: Path, tokens: int) -> None:
    """When the client closes its connection the worker's request is cancelled at once."""
    worker = FakeWorker()
    worker.faults.append(Fault(stall_after_tokens=tokens))
    async with running_service(tmp_path, worker) as running:
        body = json.dumps(chat(stream=True)).encode()
        transport = await running.send_raw(body)
        await eventually(lambda: bool(worker.seen))
        transport.abort()
        await eventually(lambda: worker.seen[0].cancelled)
        await eventually(lambda: running.service.in_flight == 0)
        gone = await running.metric("requests_total", model="fake", code="499")
        idle = await running.metric("in_flight", worker=f"w{worker.port}")

    assert (gone, idle) == (1, 0)


async def test_client_that_leaves_during_prefill_frees_that_worker(tmp_path: Path) -> None:
    """The prefill leg is cancelled too, and decode is never asked."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    prefill.faults.append(Fault(stall_after_tokens=0))
    async with running_service(tmp_path, prefill, decode) as running:
        transport = await running.send_raw(json.dumps(chat(stream=True)).encode())
        await eventually(lambda: bool(prefill.seen))
        transport.abort()
        await eventually(lambda: prefill.seen[0].cancelled)

    assert decode.seen == []

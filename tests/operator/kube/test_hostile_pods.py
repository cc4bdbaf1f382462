"""What a pod may do to the operator that asks it: nothing to its memory, time or token."""

import asyncio
import gzip
import json
import resource
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from steelyard_operator.backends.base import Drain
from steelyard_operator.kube.acting import HIGHEST_BELIEVED_EPOCH, Acting, Scene
from steelyard_operator.kube.routers import Routers
from steelyard_operator.kube.workers import WorkerError, Workers
from steelyard_operator.planning.observed import WorkerState
from steelyard_operator.render.owner import Owner
from steelyard_operator.settings import Settings
from steelyard_operator.testing import pod

pytestmark = pytest.mark.anyio

POD = replace(pod(0), ip="127.0.0.1", ready=False)
STATE = {"phase": "ready", "inFlight": 3, "role": "decode", "fingerprint": "abc"}
VLLM = b"vllm:num_requests_running 1.0\nvllm:num_requests_waiting 0.0\n"


async def endless(request: web.Request) -> web.StreamResponse:
    """Answer until the client goes, up to 1 GiB."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    try:
        for _ in range(1024):
            await answer.write(b"x" * (1 << 20))
    except ConnectionError:
        pass
    return answer


def elsewhere(path: str) -> Any:
    """Send the client to another path, body and all."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": path})

    return answer


def packed(content: bytes) -> Any:
    """Answer with content that is small on the wire."""
    small = gzip.compress(content)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=small, headers={"Content-Encoding": "gzip"})

    return answer


def grown_mib(before_kib: int) -> int:
    """Return by how much the process has ever been larger than before."""
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) >> 10


@pytest.mark.parametrize("drain", [Drain.ADMIN, Drain.METRICS])
async def test_an_endless_answer_costs_no_memory(
    server: Any, workers: Workers, drain: Drain
) -> None:
    """It is read as far as a real one is long, and counts as silence."""
    server.answers.append(endless)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert await workers.states([POD], drain=drain, token="t", fresh=True) == {}

    assert grown_mib(before) < 50


async def test_a_packed_answer_is_not_unpacked(server: Any, workers: Workers) -> None:
    """A few kilobytes may be a gigabyte."""
    server.answers.append(packed(json.dumps(STATE).encode() + b" " * (128 << 20)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert await workers.states([POD], drain=Drain.ADMIN, token="t") == {}

    assert grown_mib(before) < 50


async def test_no_redirect_is_followed(server: Any, workers: Workers, routers: Routers) -> None:
    """The token is for the pod that was asked; nobody else is asked in its name."""
    server.answers += [elsewhere("/victim")] * 3

    await workers.states([POD], drain=Drain.ADMIN, token="t")
    with pytest.raises(WorkerError, match="HTTP 307"):
        await workers.drain(replace(POD, uid="other"), deadline_seconds=5, epoch=1, token="t")
    assert await routers.readings([POD]) == []

    assert [path for _, path, _ in server.asked] == ["/state", "/drain", "/router/signals"]


async def test_the_token_is_for_the_admin_port_alone(server: Any, workers: Workers) -> None:
    """Metrics are open; the engine of another backend need not know the service's secret."""
    seen: list[str | None] = []

    async def metrics(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=VLLM)

    server.answers.append(metrics)

    await workers.states([POD], drain=Drain.METRICS, token="t", fresh=True)

    assert seen == [None]


async def test_workers_that_hang_do_not_hold_another_pass(server: Any, workers: Workers) -> None:
    """One that was silent before is asked beside the pass, which goes on without it."""
    now = 0.0
    workers._clock = lambda: now  # type: ignore[method-assign]  # time passes as the test says
    server.says({}, 500)
    await workers.states([POD], drain=Drain.ADMIN, token="t")
    hangs = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        hangs.set()
        await asyncio.sleep(3600)
        return web.Response()

    server.answers.append(hang)
    now = 10.0

    found = await asyncio.wait_for(workers.states([POD], drain=Drain.ADMIN, token="t"), 2)

    assert found == {}
    await asyncio.wait_for(hangs.wait(), 5)


async def test_an_order_that_was_not_answered_is_not_sent_in_every_pass(
    server: Any, workers: Workers
) -> None:
    """A pass would wait for each of them; after a while it is tried again."""
    now = 0.0
    workers._clock = lambda: now  # type: ignore[method-assign]  # time passes as the test says
    server.answers += [endless, endless]

    for at, message in ((0.0, "longer than"), (1.0, "not sent"), (6.0, "longer than")):
        now = at
        with pytest.raises(WorkerError, match=message):
            await workers.drain(POD, deadline_seconds=5, epoch=1, token="t")

    assert len(server.asked) == 2


class Leader:
    """An epoch that remembers what raised it."""

    def __init__(self) -> None:
        self.epoch = 5
        self.raised: list[int] = []

    async def raise_epoch(self, above: int) -> None:
        """Note it."""
        self.raised.append(above)
        self.epoch = above + 1


async def test_a_worker_cannot_use_up_the_leases_number() -> None:
    """A number near the end of its 32 bits would let no operator lead again."""
    leader = Leader()
    parts: Any = SimpleNamespace(pods=None)
    acting = Acting(
        parts, parts, parts, parts, leader, settings=Settings(), routers_key=lambda _: None
    )
    for epoch in (HIGHEST_BELIEVED_EPOCH, 2**31 - 2, 7):
        states = {"uid-0": WorkerState("ready", 0, epoch=epoch)}
        scene = Scene(Owner("demo", "default", "u"), "t", Drain.ADMIN, states)
        await acting._epoch(scene, POD)

    assert (leader.raised, leader.epoch) == ([7], 8)

"""What a pod may say: values out of bounds are silence, never an exception in a pass."""

import asyncio
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from steelyard_operator.backends.base import Drain
from steelyard_operator.kube.routers import Routers
from steelyard_operator.kube.workers import WorkerError, Workers
from steelyard_operator.page.routers import read_routers
from steelyard_operator.testing import pod

pytestmark = pytest.mark.anyio

POD = replace(pod(0), ip="127.0.0.1", ready=False)
STATE: dict[str, Any] = {"phase": "ready", "inFlight": 3, "role": "decode", "fingerprint": "abc"}
SIGNALS: dict[str, Any] = {
    **{"id": "r", "arrived": 1, "inputTokens": 1, "inputTokensSquared": 1, "finished": 1},
    **{"outputTokens": 1, "contextTokens": 1, "backlogTokens": 0, "backlog": 0, "decoding": 0},
}
DEEP = b"[" * 30_000
VLLM = b"vllm:num_requests_running 1.0\nvllm:num_requests_waiting 0.0\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"inFlight": -1},
        {"inFlight": 2**63},
        {"inFlight": 1e300},
        {"inFlight": "many"},
        {"inFlight": [1]},
        {"phase": "x" * 1000},
        {"phase": ["ready"]},
        {"fingerprint": "<b>"},
        {"fingerprint": {"a": 1}},
        {"epoch": 1e30},
        {"progress": ["stage"]},
        {"progress": {"percent": 2**40}},
    ],
)
async def test_a_value_out_of_bounds_is_silence(
    server: Any, workers: Workers, wrong: dict[str, Any]
) -> None:
    """Neither a status nor a label is made of it, and the pass goes on."""
    server.says({**STATE, **wrong})

    assert await workers.states([POD], drain=Drain.ADMIN, token="t") == {}


@pytest.mark.parametrize("content", [DEEP, b"NaN", b"[]", b"9" * 5000, b"\xff\xfe", b""])
async def test_what_is_no_state_is_a_workers_error(
    server: Any, workers: Workers, content: bytes
) -> None:
    """An order's answer is read like any other: one sentence, never another exception."""
    server.streams(content)

    with pytest.raises(WorkerError, match="demo-0: /drain: not a worker's state"):
        await workers.drain(POD, deadline_seconds=5, epoch=1, token="t")


async def test_a_stage_is_one_short_line(server: Any, workers: Workers) -> None:
    """It is a sentence of the status and of the log."""
    server.says({**STATE, "progress": {"stage": "a\nb\x1b[31m" + "c" * 10_000, "percent": 1}})

    found = await workers.states([POD], drain=Drain.ADMIN, token="t")

    assert found["uid-0"].stage.startswith("a b [31mccc")
    assert len(found["uid-0"].stage) == 64


@pytest.mark.parametrize(
    "line",
    [
        b"vllm:num_requests_running nan",
        b"vllm:num_requests_running 1e999",
        b"vllm:num_requests_running -5",
        b"vllm:num_requests_running",
        b'vllm:num_requests_running{a="b"}',
        b"vllm:inter_token_latency_seconds_sum inf",
    ],
)
async def test_a_number_that_is_none_makes_the_page_none(
    server: Any, workers: Workers, line: bytes
) -> None:
    """A worker whose requests cannot be counted is not taken for empty."""
    server.streams(VLLM + line + b"\n")

    assert await workers.states([POD], drain=Drain.METRICS, token="t", fresh=True) == {}


@pytest.mark.parametrize(
    "labels",
    [b"a" * 400_000, b'num_gpu_blocks="' + b"9" * 4000 + b'",block_size="' + b"9" * 4000 + b'"'],
)
async def test_labels_made_to_take_long_do_not(
    server: Any, workers: Workers, labels: bytes
) -> None:
    """Such a page is read in the time of any other."""
    server.streams(VLLM, b"vllm:cache_config_info{" + labels + b"} 1.0\n")

    found = await asyncio.wait_for(
        workers.states([POD], drain=Drain.METRICS, token="t", fresh=True), 20
    )

    assert found["uid-0"].in_flight == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"arrived": -1},
        {"inputTokensSquared": 1e200},
        {"id": "x" * 1000},
        {"id": ["r"]},
        {"ttft": [1] * 10_000},
        {"tpot": [1e300]},
        {"backlog": 2**62},
    ],
)
async def test_signals_out_of_bounds_are_none(
    server: Any, routers: Routers, wrong: dict[str, Any]
) -> None:
    """The planner works with numbers whose sums and squares are numbers."""
    server.says({**SIGNALS, **wrong})
    server.says(SIGNALS)

    assert await routers.readings([POD]) == []
    assert len(await routers.readings([POD])) == 1


@pytest.mark.parametrize("count", [b"1e+999", b"e", b"1e9"])
async def test_the_page_survives_a_routers_metrics(server: Any, count: bytes) -> None:
    """A router whose numbers are none is left out."""
    server.says(SIGNALS)
    server.streams(b'steelyard_router:in_flight{worker="w"} ' + count + b"\n")
    async with aiohttp.ClientSession() as session:
        assert await read_routers(session, [server.url]) == ([], {})

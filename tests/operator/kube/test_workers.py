"""Which workers are asked, how often, and what their answers mean."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.backends.base import Drain
from steelyard_operator.kube.workers import WorkerError, Workers
from steelyard_operator.planning.observed import WorkerState
from steelyard_operator.testing import pod

pytestmark = pytest.mark.anyio

STATE = {"phase": "ready", "inFlight": 3, "role": "decode", "fingerprint": "abc", "epoch": 7}


STARTING = replace(pod(0), ip="127.0.0.1", ready=False)
SERVING = replace(pod(0), ip="127.0.0.1")


async def test_a_worker_that_starts_is_asked_and_waited_for(server: Any, workers: Workers) -> None:
    """How far it is decides what comes next."""
    server.says({**STATE, "phase": "loading", "progress": {"stage": "weights", "percent": 40}})

    found = await workers.states([STARTING], drain=Drain.ADMIN, token="t")

    assert found == {
        "uid-0": WorkerState("loading", 3, Role.DECODE, "abc", 7, stage="weights", percent=40)
    }


async def test_steps_in_another_form_are_passed_over(server: Any, workers: Workers) -> None:
    """A worker of another version still drains and flips; only its speed is not known."""
    server.says({**STATE, "steps": {"prefill": {}}})

    found = await workers.states([STARTING], drain=Drain.ADMIN, token="t")

    assert found == {"uid-0": WorkerState("ready", 3, Role.DECODE, "abc", 7)}


async def test_a_serving_worker_is_not_waited_for(server: Any, workers: Workers) -> None:
    """Its count comes with a later pass, and it is asked once."""
    asked = asyncio.Event()

    async def slow(request: Any) -> Any:
        asked.set()
        await asyncio.sleep(3600)

    server.answers.append(slow)

    first = await workers.states([SERVING], drain=Drain.ADMIN, token="t")
    await asyncio.wait_for(asked.wait(), 5)
    second = await workers.states([SERVING], drain=Drain.ADMIN, token="t")

    assert (first, second, len(server.asked)) == ({}, {}, 1)


async def test_a_decision_waits_for_every_worker(server: Any, workers: Workers) -> None:
    """Who is least busy is asked at the time, also where an older answer is known."""
    server.says({**STATE, "inFlight": 9})
    server.says({**STATE, "inFlight": 1})

    first = await workers.states([SERVING], drain=Drain.ADMIN, token="t", fresh=True)
    second = await workers.states([SERVING], drain=Drain.ADMIN, token="t", fresh=True)

    assert (first["uid-0"].in_flight, second["uid-0"].in_flight) == (9, 1)


async def test_a_silent_worker_is_left_alone_for_a_while(server: Any, workers: Workers) -> None:
    """An address that does not answer must not cost a timeout in every pass."""
    server.says({}, 500)

    found = [await workers.states([STARTING], drain=Drain.ADMIN, token="t") for _ in range(5)]

    assert (found, len(server.asked)) == ([{}] * 5, 1)


async def test_vllms_requests_are_counted_from_its_metrics(server: Any, workers: Workers) -> None:
    """Running and waiting requests of all its engines together."""
    leaving = replace(pod(0, None), ip="127.0.0.1")
    server.streams(
        b'vllm:num_requests_running{engine="0"} 2.0\n# HELP x y\n'
        b'vllm:num_requests_running{engine="1"} 1.0\nvllm:num_requests_waiting{engine="0"} 4.0\n'
    )

    found = await workers.states([leaving], drain=Drain.METRICS, token="t")

    assert found["uid-0"].in_flight == 7
    assert server.asked[0][1] == "/metrics"


async def test_vllms_steps_are_what_came_between_two_readings(
    server: Any, workers: Workers
) -> None:
    """The first reading has nothing to compare with; later ones add up."""
    page = """\
vllm:num_requests_running{engine="0"} 2.0
vllm:num_requests_waiting{engine="0"} 0.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0
vllm:request_prefill_time_seconds_count{engine="0"} %d
vllm:request_prefill_time_seconds_sum{engine="0"} %d
vllm:request_prefill_kv_computed_tokens_sum{engine="0"} %d
vllm:inter_token_latency_seconds_count{engine="0"} %d
vllm:inter_token_latency_seconds_sum{engine="0"} %d
vllm:request_prompt_tokens_count{engine="0"} 0
vllm:request_prompt_tokens_sum{engine="0"} 0
vllm:request_generation_tokens_sum{engine="0"} 0
"""
    found = []
    for count in range(3):
        server.streams((page % (count, count, 100 * count, 10 * count, count)).encode())
        states = await workers.states([SERVING], drain=Drain.METRICS, token="t", fresh=True)
        found.append(states["uid-0"].steps)

    assert found[0] is None
    assert found[1] is not None
    assert found[2] is not None
    assert (found[1].prefill[0], found[2].prefill[0]) == (1, 2)
    assert (found[1].prefill[2], found[2].prefill[2]) == (100, 200)
    assert found[2].kv_tokens == 1600


async def test_a_page_without_the_counts_is_no_answer(server: Any, workers: Workers) -> None:
    """A worker whose requests cannot be counted is not taken for empty."""
    leaving = replace(pod(0, None), ip="127.0.0.1")
    server.streams(b"up 1\n")

    assert await workers.states([leaving], drain=Drain.METRICS, token="t") == {}


async def test_an_order_carries_epoch_and_deadline(server: Any, workers: Workers) -> None:
    """The answer is the worker's new state, known without another question."""
    server.says({**STATE, "phase": "draining"}, 202)

    await workers.drain(SERVING, deadline_seconds=30, epoch=9, token="t")

    assert server.bodies == [{"epoch": 9, "deadlineSeconds": 30}]
    known = await workers.states([SERVING], drain=Drain.ADMIN, token="t")
    assert known["uid-0"].phase == "draining"


async def test_a_refused_order_says_so(server: Any, workers: Workers) -> None:
    """A worker that has seen a higher epoch answers 409."""
    server.says({"error": "epoch 3 is older than 7"}, 409)

    with pytest.raises(WorkerError, match=r"demo-0: /role: HTTP 409: .*older than 7") as caught:
        await workers.set_role(SERVING, role=Role.BOTH, epoch=3, token="t")

    assert caught.value.status == 409
    assert server.bodies == [{"role": "both", "epoch": 3}]

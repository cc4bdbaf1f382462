"""When a prompt is prefilled elsewhere, how the two workers are asked, and what if that fails."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import CHAT, chat, eventually, running_service

pytestmark = pytest.mark.anyio


async def test_both_legs_carry_the_exchange(tmp_path: Path) -> None:
    """Prefill is asked for one token and for the KV; decode gets what prefill answered."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    body = chat(
        n=2,
        min_tokens=3,
        stop=["x"],
        max_completion_tokens=9,
        stream_options={"include_usage": True},
    )
    async with running_service(tmp_path, prefill, decode) as running:
        seen = await running.stream(body, headers={"X-Request-Id": "one-request"})

    asked, resumed = prefill.seen[0].body, decode.seen[0].body
    assert seen.ended
    assert asked["kv_transfer_params"] == {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }
    assert (
        asked["max_tokens"],
        asked["max_completion_tokens"],
        asked["stream"],
    ) == (1, 1, False)
    assert asked.keys().isdisjoint({"n", "min_tokens", "stop", "stream_options"})
    assert f"engine-{prefill.port}" == resumed["kv_transfer_params"]["remote_engine_id"]
    assert asked["seed"] == resumed["seed"]
    assert (resumed["n"], resumed["min_tokens"], resumed["stop"]) == (2, 3, ["x"])
    ids = {worker.seen[0].headers["x-request-id"] for worker in (prefill, decode)}
    assert {"one-request"} == ids


@pytest.mark.parametrize(
    ("body", "decision"),
    [
        (chat(), "remote"),
        (chat("short"), "short"),
        ({"prompt": [1] * 200}, "remote"),
        ({"prompt": [1] * 20}, "short"),
        ({"prompt": ["one " * 100]}, "remote"),
        ({"prompt": [[1] * 200]}, "remote"),
        ({"prompt": ["one " * 100, "two " * 100]}, "unsuitable"),
        ({"prompt": "one " * 100, "echo": True, "logprobs": 1}, "unsuitable"),
    ],
    ids=[
        "long",
        "short",
        "long-ids",
        "short-ids",
        "one-text",
        "one-ids",
        "two-prompts",
        "prompt-logprobs",
    ],
)
async def test_remote_prefill_is_used_where_it_pays(
    tmp_path: Path, body: dict[str, Any], decision: str
) -> None:
    """Short prompts and those that one transfer cannot serve are prefilled by the decode worker."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    path = CHAT if "messages" in body else "/v1/completions"
    async with running_service(tmp_path, prefill, decode) as running:
        status, _, _ = await running.post(body, path)
        counted = await running.metric("prefill_decisions_total", decision=decision)

    assert (status, counted) == (200, 1)
    assert (decision == "remote") == bool(prefill.seen)
    assert (decision == "remote") == ("kv_transfer_params" in decode.seen[0].body)


async def test_warm_prompt_is_not_prefilled_again(tmp_path: Path) -> None:
    """The second request with the same beginning goes to the decode worker alone."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    async with running_service(tmp_path, prefill, decode) as running:
        await running.stream(chat())
        await running.stream(chat())
        warm = await running.metric("prefill_decisions_total", decision="warm")

    assert warm == 1
    assert len(prefill.seen) == 1


@pytest.mark.parametrize("streams", [True, False])
async def test_what_was_not_cached_after_all_is_forgotten(tmp_path: Path, streams: bool) -> None:
    """A worker whose cache is small lost what the router remembers: it is asked to prefill less."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    prompts = [
        f"{name} " * 700 for name in ("one", "two", "six", "ten", "red", "sea", "sky", "ice")
    ]
    async with running_service(tmp_path, prefill, decode) as running:

        async def ask(prompt: str) -> None:
            body: dict[str, Any] = {"prompt": prompt}
            if streams:
                streamed = await running.stream(body, "/v1/completions")
                assert b'"usage"' not in streamed.raw, "the router's question, not the client's"
            else:
                await running.post(body, "/v1/completions")

        for prompt in prompts:
            await ask(prompt)
        await ask(prompts[0])  # taken for cached; the answer says that nothing was
        await ask(prompts[1])
        warm = await running.metric("prefill_decisions_total", decision="warm")

    assert warm == 1
    assert len(prefill.seen) == len(prompts) + 1


async def test_prefill_worker_of_another_layout_is_left_out(tmp_path: Path) -> None:
    """Workers with different KV fingerprints are never paired."""
    prefill = FakeWorker("prefill", fingerprint="a" * 16)
    decode = FakeWorker("decode", fingerprint="b" * 16)
    async with running_service(tmp_path, prefill, decode) as running:
        await running.stream(chat())
        alone = await running.metric("prefill_decisions_total", decision="no_prefill_worker")

    assert alone == 1
    assert prefill.seen == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(die_before_answer=True), "disconnect"),
        (Fault(status=503), "status_503"),
        (Fault(status=500), "status_500"),
        (Fault(status=429), "busy"),
        (Fault(status=400), "status_400"),
        (Fault(without_kv_params=True), "bad_answer"),
        (Fault(stall_after_tokens=0), "timeout"),
    ],
    ids=["dies", "drains", "fails", "busy", "refuses", "no-params", "stalls"],
)
async def test_failed_prefill_means_decode_only(tmp_path: Path, fault: Fault, reason: str) -> None:
    """Whatever happens to the prefill leg, decode does it all and the reason is counted."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    prefill.faults.append(fault)
    async with running_service(tmp_path, prefill, decode, prefill_timeout_seconds=0.3) as running:
        seen = await running.stream(chat())
        counted = await running.metric("prefill_fallbacks_total", reason=reason)

    assert seen.ended
    assert counted == 1
    assert "kv_transfer_params" not in decode.seen[0].body


async def test_prefill_worker_that_is_gone_means_decode_only(tmp_path: Path) -> None:
    """A prefill worker that refuses connections is ejected; the request is served."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    async with running_service(tmp_path, prefill, decode) as running:
        await prefill.kill()
        seen = await running.stream(chat())
        counted = await running.metric("prefill_fallbacks_total", reason="connect")
        healthy = await running.metric("worker_healthy", worker=f"w{prefill.port}")

    assert seen.ended
    assert (counted, healthy) == (1, 0)


async def test_prefill_dying_midway_means_decode_only(tmp_path: Path) -> None:
    """Kill -9 of the prefill worker during a prefill costs time, not the request."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    prefill.faults.append(Fault(stall_after_tokens=0))
    async with running_service(tmp_path, prefill, decode) as running:
        streaming = asyncio.create_task(running.stream(chat()))
        await eventually(lambda: bool(prefill.seen))
        await prefill.kill()
        seen = await streaming

    assert seen.ended
    assert "kv_transfer_params" not in decode.seen[0].body


async def test_stopped_prefill_worker_is_given_up_early(tmp_path: Path) -> None:
    """A prefill worker that stalls and answers no probe is not waited for until the timeout."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    prefill.faults.append(Fault(stall_after_tokens=0))
    prefill.answers_probes = False
    async with running_service(
        tmp_path,
        prefill,
        decode,
        stall_seconds=0.1,
        probe_timeout_seconds=0.1,
        patience_seconds=0.2,
    ) as running:
        async with asyncio.timeout(10):
            seen = await running.stream(chat())
        counted = await running.metric("prefill_fallbacks_total", reason="timeout")

    assert seen.ended
    assert counted == 1

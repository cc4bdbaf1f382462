"""`/metrics`: names, labels, values, freshness."""

import re

import pytest

from steelyard_runtime.ipc.messages import EngineStats
from steelyard_runtime.testing.http_worker import Rig

pytestmark = pytest.mark.anyio


def samples(text: str) -> dict[str, float]:
    """Return all samples, keyed as they are written."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def value(found: dict[str, float], name: str, *labels: str) -> float:
    """Return the one sample of this name that has these labels."""
    matches = [
        number
        for key, number in found.items()
        if key.partition("{")[0] == name and all(label in key for label in labels)
    ]
    assert len(matches) == 1, (name, labels, matches)
    return matches[0]


async def scrape(rig: Rig) -> dict[str, float]:
    """Return the samples of a scrape."""
    return samples((await rig.http.get("/metrics")).text)


async def test_every_series_has_model_engine_and_role(own_rig: Rig) -> None:
    """Three labels are on every series, for dashboards and for vLLM's router."""
    found = await scrape(own_rig)

    assert found
    for label in ('model_name="fake"', 'engine="0"', 'role="both"'):
        assert all(label in key for key in found), label


async def test_requests_and_tokens_are_counted(own_rig: Rig) -> None:
    """Tokens, ends and latencies of two requests show under vLLM's names."""
    await own_rig.complete(max_tokens=5)
    await own_rig.chat(max_tokens=3, stream=True, n=2)

    found = await scrape(own_rig)

    prompts = sum(len(r.prompt_token_ids) for r in own_rig.engine.added[:2])
    assert value(found, "vllm:prompt_tokens_total") == prompts
    assert value(found, "vllm:generation_tokens_total") == 11
    assert value(found, "vllm:request_success_total", 'finished_reason="length"') == 3
    assert value(found, "vllm:time_to_first_token_seconds_count") == 2
    assert value(found, "vllm:inter_token_latency_seconds_count") == 8
    assert value(found, "vllm:e2e_request_latency_seconds_count") == 3
    assert value(found, "vllm:request_params_n_sum") == 3
    assert value(found, "steelyard:outside_forward_seconds_count") == 11


async def test_engine_numbers_are_fresh(own_rig: Rig) -> None:
    """A scrape asks the engine; labelled keys become labels, counters get `_total`."""
    own_rig.engine.gauges = {'steelyard:blocks{state="free"}': 42.0}
    own_rig.engine.counters = {
        "vllm:num_preemptions": 7.0,
        'steelyard:kv_pull_failures{reason="checksum"}': 2.0,
        'steelyard:leases_total{end="done"}': 1.0,
    }

    found = await scrape(own_rig)

    assert value(found, "steelyard:blocks", 'state="free"') == 42
    assert value(found, "vllm:num_preemptions_total") == 7
    assert value(found, "steelyard:kv_pull_failures_total", 'reason="checksum"') == 2
    assert value(found, "steelyard:leases_total", 'end="done"') == 1


async def test_engine_observations_fill_histograms(own_rig: Rig) -> None:
    """Observations that come with outputs are added to their histograms."""
    stats = EngineStats(observations={"vllm:iteration_tokens_total": [3.0, 300.0, 1e9]})
    own_rig.engine.report(stats)

    async def seen() -> dict[str, float]:
        found = await scrape(own_rig)
        while not value(found, "vllm:iteration_tokens_total_count"):
            found = await scrape(own_rig)
        return found

    found = await seen()

    name = "vllm:iteration_tokens_total_bucket"
    assert value(found, name, 'le="8.0"') == 1
    assert value(found, name, 'le="512.0"') == 2
    assert value(found, name, 'le="+Inf"') == 3


async def test_worker_info_tells_role_phase_and_fingerprint(own_rig: Rig) -> None:
    """The router reads role, phase and fingerprint from one gauge."""
    before = await scrape(own_rig)
    await own_rig.admin.post("/drain")
    after = await scrape(own_rig)

    fingerprint = f'fingerprint="{"f" * 64}"'
    assert value(before, "steelyard:worker_info", 'phase="ready"', fingerprint) == 1
    assert value(after, "steelyard:worker_info", 'phase="drained"', fingerprint) == 1
    assert value(after, "vllm:cache_config_info", 'num_gpu_blocks="100"') == 1


async def test_buckets_resolve_single_milliseconds(own_rig: Rig) -> None:
    """Inter-token buckets are finer than vLLM's, for models that step in a few milliseconds."""
    text = (await own_rig.http.get("/metrics")).text

    pattern = r'vllm:inter_token_latency_seconds_bucket\{.*le="(0\.00\d)"'
    assert {"0.001", "0.002", "0.003", "0.004", "0.005"} <= set(re.findall(pattern, text))

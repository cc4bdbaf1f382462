"""The same ids however a request is served: alone, batched, warm, preempted, split."""

from collections.abc import Iterator
from typing import Any

import pytest

from steelyard_runtime.config import TransferConfig
from steelyard_runtime.core.params import Grammar, SamplingParams
from steelyard_runtime.ipc.messages import AddRequest, RemotePrefill
from steelyard_runtime.testing.engines import EngineRig

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]
OUTPUT_TOKENS = 64
SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, '
    '"age": {"type": "integer"}}, "required": ["name", "age"], "additionalProperties": false}'
)


@pytest.fixture(scope="session", params=["tcp", "nixl"])
def split(request: pytest.FixtureRequest) -> Iterator[tuple[EngineRig, EngineRig]]:
    """A prefill engine and a decode engine, and the transport between them."""
    if request.param == "nixl":
        pytest.importorskip("nixl_cu13", reason="NIXL is not installed")
    rigs = tuple(
        EngineRig(
            kv_cache_bytes=1 << 30,
            role=role,
            threads=1,
            # All prompts are prefilled before the first is pulled, so nobody renews meanwhile.
            transfer=TransferConfig(
                transport=request.param,
                port=0,
                token="secret",
                lease_seconds=600.0,
                deadline_seconds=60.0,
            ),
        )
        for role in ("prefill", "decode")
    )
    yield rigs[0], rigs[1]
    for rig in rigs:
        rig.close()


def prefill(rig: EngineRig, prompts: list[list[int]], name: str) -> list[RemotePrefill]:
    """Run the prefill leg; returns where each prompt's KV is."""
    one = SamplingParams(max_tokens=1, temperature=0.0)
    names = [f"{name}-{index}" for index in range(len(prompts))]
    for each, prompt in zip(names, prompts, strict=True):
        rig.engine.add(AddRequest(each, list(prompt), one, export_kv=True))
    answers = rig.finish(set(names))
    found = []
    for each in names:
        given: dict[str, Any] = answers[each].last.kv_transfer_params or {}
        found.append(
            RemotePrefill(
                engine_id=given["remote_engine_id"],
                request_id=given["remote_request_id"],
                host=given["remote_host"],
                port=given["remote_port"],
                block_ids=given["remote_block_ids"],
                num_tokens=given["remote_num_tokens"],
                fingerprint=given["steelyard"]["fingerprint"],
            )
        )
    return found


def test_alone_with_a_cold_prefix(references: list[Any]) -> None:
    """Every id is the one that transformers chooses (checked where the references are made)."""
    assert len(references) >= 20
    assert {len(each.output) for each in references} == {OUTPUT_TOKENS}


def test_with_steps_launched_ahead(colocated: EngineRig, references: list[Any]) -> None:
    """The device feeds itself; sequences come and go while a step is in flight."""
    colocated.engine.reset_prefix_cache()
    runner = colocated.assembly.runner
    runner.runs_ahead = True
    try:
        chosen = references[:6]
        names = {}
        for index, each in enumerate(chosen):
            params = SamplingParams(max_tokens=8 * (index + 1), temperature=0.0)
            names[f"ahead-{index}"] = each.output[: 8 * (index + 1)]
            colocated.engine.add(AddRequest(f"ahead-{index}", list(each.prompt), params))
        answers = colocated.finish(set(names))
    finally:
        runner.runs_ahead = False
    assert {name: answers[name].token_ids for name in names} == names


def test_in_a_mixed_batch_of_sixteen(colocated: EngineRig, references: list[Any]) -> None:
    """Sixteen prompts at once, prefill and decode mixed, change no id."""
    colocated.engine.reset_prefix_cache()
    chosen = references[:8] + references[-8:]
    answers = colocated.generate(
        [each.prompt for each in chosen], max_tokens=OUTPUT_TOKENS, ignore_eos=True
    )

    assert [each.token_ids for each in answers] == [each.output for each in chosen]


def test_with_a_warm_prefix(colocated: EngineRig, references: list[Any]) -> None:
    """With the prompt's blocks cached the ids are the same, and the cache is really used."""
    colocated.generate([each.prompt for each in references], max_tokens=1)
    answers = colocated.generate(
        [each.prompt for each in references], max_tokens=OUTPUT_TOKENS, ignore_eos=True
    )

    assert [each.token_ids for each in answers] == [each.output for each in references]
    assert [each.outputs[0].num_cached_tokens for each in answers] == [
        (len(each.prompt) - 1) // 16 * 16 for each in references
    ]


def test_preempted(references: list[Any]) -> None:
    """In a pool that is too small for all, preemption (counted) changes no id."""
    chosen = [each for each in references if len(each.prompt) <= 260]
    rig = EngineRig(
        num_blocks=40,
        threads=1,
        prefix_caching=False,
        transfer=TransferConfig(transport="tcp", port=0),
    )
    answers = rig.generate(
        [each.prompt for each in chosen], max_tokens=OUTPUT_TOKENS, ignore_eos=True
    )
    preemptions = rig.engine.statistics.numbers()[1]["vllm:num_preemptions"]
    rig.close()

    assert preemptions > 0
    assert [each.token_ids for each in answers] == [
        each.output for each in references if each in chosen
    ]


def test_split_between_two_engines(
    split: tuple[EngineRig, EngineRig], references: list[Any]
) -> None:
    """With prompts prefilled elsewhere and pulled, the ids are the same and nothing is left."""
    first, second = split
    prompts = [each.prompt for each in references]
    remote = prefill(first, prompts, "cold")
    answers = second.generate(prompts, remote=remote, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
    second.wait_until_settled()
    first.wait_until_settled()

    assert [each.token_ids for each in answers] == [each.output for each in references]
    assert [each.outputs[0].num_remote_tokens for each in answers] == [
        len(prompt) for prompt in prompts
    ]
    assert second.engine.statistics.local_recomputes == 0


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0, "seed": 7},
        {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "seed": 11},
        {"temperature": 0.7, "frequency_penalty": 0.5, "repetition_penalty": 1.1, "seed": 3},
        {"temperature": 1.0, "seed": 5, "grammar": Grammar("json_schema", SCHEMA)},
        {"temperature": 0.0, "logprobs": 3},
    ],
    ids=["seeded", "filtered", "penalised", "schema", "logprobs"],
)
def test_sampling_is_the_same_alone_batched_and_split(
    colocated: EngineRig,
    split: tuple[EngineRig, EngineRig],
    prompts: list[list[int]],
    sampling: dict[str, Any],
) -> None:
    """Ids, and log probabilities to 1e-3, do not depend on how a request was served."""
    chosen = prompts[-6:]
    colocated.engine.reset_prefix_cache()
    alone = [colocated.generate([each], max_tokens=24, **sampling)[0] for each in chosen]
    batched = colocated.generate(chosen, max_tokens=24, **sampling)
    remote = prefill(split[0], chosen, f"sampling-{sampling!r}")
    moved = split[1].generate(chosen, remote=remote, max_tokens=24, **sampling)

    assert [each.token_ids for each in batched] == [each.token_ids for each in alone]
    assert [each.token_ids for each in moved] == [each.token_ids for each in alone]
    for one, other in zip(alone, moved, strict=True):
        expected = [entry.logprob for out in one.outputs for entry in out.logprobs or []]
        given = [entry.logprob for out in other.outputs for entry in out.logprobs or []]
        assert given == pytest.approx(expected, abs=1e-3)

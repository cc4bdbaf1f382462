"""Every variant of the Llama architecture agrees with transformers."""

from typing import Any

import pytest
import torch

from steelyard_runtime.testing.paged_runs import PagedRun

# float32 against float32; only the order of the sums differs.
TOLERANCE = 2e-4
PROMPT = [(7 * i * i + 3) % 97 for i in range(75)]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "grouped-query": {},
    "multi-head": {"num_key_value_heads": 4},
    "multi-query": {"num_key_value_heads": 1},
    "wide-heads": {"head_dim": 32},
    "three-to-one": {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3},
    "untied-head": {"tie_word_embeddings": False},
    "attention-bias": {"attention_bias": True},
    "mlp-bias": {"mlp_bias": True},
    "rope-theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    "rope-linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "rope-llama3": {"rope_parameters": LLAMA3},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_equal_transformers(tiny_model: Any, changes: dict[str, Any]) -> None:
    """The logits at all positions equal those of transformers, prefilled in uneven chunks."""
    path, oracle = tiny_model(**changes)
    run = PagedRun.of_path(path, block_tokens=8)
    sequence = run.sequence(PROMPT)

    parts = [run.step((sequence, count))[0] for count in (1, 30, 7, 37)]

    assert (torch.cat(parts) - oracle.logits(PROMPT)).abs().max() < TOLERANCE


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_compute_in_float32(tiny_model: Any, dtype: str) -> None:
    """Weights stored in half precision give the logits of the same weights in float32."""
    path, oracle = tiny_model(dtype=dtype)
    run = PagedRun.of_path(path)

    (logits,) = run.step((run.sequence(PROMPT), len(PROMPT)))

    assert (logits - oracle.logits(PROMPT)).abs().max() < TOLERANCE


def test_sharded_checkpoints_load(tiny_model: Any) -> None:
    """A directory with an index and several weight files loads like a single file."""
    path, oracle = tiny_model(max_shard_size="100KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    run = PagedRun.of_path(path)

    (logits,) = run.step((run.sequence(PROMPT), len(PROMPT)))

    assert (logits - oracle.logits(PROMPT)).abs().max() < TOLERANCE


def test_a_mixed_batch_equals_each_sequence_alone(tiny_model: Any) -> None:
    """Decoding, prefilling and continuing sequences in one step do not see each other."""
    path, oracle = tiny_model()
    run = PagedRun.of_path(path, block_tokens=4)
    prompts = [PROMPT[:5], PROMPT[10:43], PROMPT[20:29], PROMPT[3:4]]
    sequences = [run.sequence(prompt) for prompt in prompts]
    run.step((sequences[0], 4), (sequences[1], 20))

    logits = run.step((sequences[0], 1), (sequences[1], 13), (sequences[2], 9), (sequences[3], 1))

    for prompt, computed in zip(prompts, logits, strict=True):
        expected = oracle.logits(prompt)[-len(computed) :]
        assert (computed - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_every_implementation_of_the_kernels_agrees(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, kernels: str
) -> None:
    """Plain torch op by op and the C++ pass in one call both make transformers' logits."""
    monkeypatch.setenv("STEELYARD_KERNELS", kernels)
    path, oracle = tiny_model(attention_bias=True, mlp_bias=True)
    run = PagedRun.of_path(path)

    (logits,) = run.step((run.sequence(PROMPT), len(PROMPT)))

    assert (logits - oracle.logits(PROMPT)).abs().max() < TOLERANCE


def test_a_sequence_is_the_same_to_the_last_bit_in_any_batch(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The C++ kernels sum in an order that does not depend on who else is in the step."""
    monkeypatch.setenv("STEELYARD_KERNELS", "cpu")
    path, _ = tiny_model()
    run = PagedRun.of_path(path)
    (alone,) = run.step((run.sequence(PROMPT[:20]), 20))

    first, together = run.step((run.sequence(PROMPT), 75), (run.sequence(PROMPT[:20]), 20))

    assert len(first) == 75
    assert torch.equal(together, alone)

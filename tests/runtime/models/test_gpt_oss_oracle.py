"""gpt-oss agrees with transformers: sinks, windows, YaRN, biases, experts in MXFP4."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steelyard_runtime.checkpoint_files.model_config import read_model_config
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.testing.paged_runs import PagedRun
from steelyard_runtime.testing.tiny_gpt_oss import write_tiny_gpt_oss

# float32 against float32; only the order of the sums differs.
TOLERANCE = 1e-3
PROMPT = [(7 * i * i + 3) % 96 for i in range(75)]
VARIANTS: dict[str, dict[str, Any]] = {
    "as-released": {},
    "no-windows": {"layer_types": ["full_attention"] * 4},
    "only-windows": {"layer_types": ["sliding_attention"] * 4},
    "one-expert": {"num_experts_per_tok": 1},
    "wide": {"hidden_size": 192, "intermediate_size": 128},
    "plain-rope": {"rope_parameters": {"rope_type": "default", "rope_theta": 150000.0}},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_equal_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The logits at all positions, prefilled in uneven chunks, then token by token."""
    oracle = write_tiny_gpt_oss(tmp_path, **changes)
    run = PagedRun.of_path(tmp_path, block_tokens=16)
    sequence = run.sequence(PROMPT)

    parts = [run.step((sequence, count))[0] for count in (1, 30, 7, 35, 1, 1)]

    assert (torch.cat(parts) - oracle.logits(PROMPT)).abs().max() < TOLERANCE


def test_a_mixed_batch_equals_each_sequence_alone(tmp_path: Path) -> None:
    """Decoding, prefilling and continuing sequences in one step do not see each other."""
    oracle = write_tiny_gpt_oss(tmp_path)
    run = PagedRun.of_path(tmp_path)
    prompts = [PROMPT[:5], PROMPT[10:60], PROMPT[20:29], PROMPT[3:4]]
    sequences = [run.sequence(prompt) for prompt in prompts]
    run.step((sequences[0], 4), (sequences[1], 37))

    logits = run.step((sequences[0], 1), (sequences[1], 13), (sequences[2], 9), (sequences[3], 1))

    for prompt, computed in zip(prompts, logits, strict=True):
        expected = oracle.logits(prompt)[-len(computed) :]
        assert (computed - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": None}, "must have the method 'mxfp4', as gpt-oss is released"),
        ({"num_experts_per_tok": 7}, "'num_experts_per_tok' must be at most the 6 experts, got 7"),
        ({"layer_types": ["full_attention"]}, "'layer_types' must have one of"),
        ({"num_local_experts": 0}, "'num_local_experts' must be a positive number"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """The field, what was given and what is allowed."""
    write_tiny_gpt_oss(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    with pytest.raises(CheckpointError, match=message):
        read_model_config(tmp_path)

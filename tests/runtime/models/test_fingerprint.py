"""Workers pair only where KV blocks mean the same on both sides."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from steelyard_runtime.checkpoint_files.model_config import ModelConfig, RopeScaling
from steelyard_runtime.models.batch import KVGeometry
from steelyard_runtime.models.fingerprint import fingerprint

CONFIG = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=50,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position=64,
    rope_theta=1e4,
    rope_scaling=None,
    tie_word_embeddings=True,
    attention_bias=False,
    mlp_bias=False,
    eos_token_ids=frozenset({2}),
)
GEOMETRY = KVGeometry(2, 2, 8, 16, torch.float32)
NAMES = {"model_digest": "a", "tokenizer_digest": "b", "weight_dtype": "float32"}


def made(config: Any = None, geometry: Any = None, **names: str) -> str:
    return fingerprint(
        replace(CONFIG, **(config or {})),
        replace(GEOMETRY, **(geometry or {})),
        **(NAMES | names),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"model_digest": "x"},
        {"tokenizer_digest": "x"},
        {"weight_dtype": "bfloat16"},
        {"config": {"num_heads": 2}},
        {"config": {"rope_theta": 5e5}},
        {"config": {"rope_scaling": RopeScaling("linear", 2.0)}},
        {"geometry": {"block_tokens": 32}},
        {"geometry": {"dtype": torch.bfloat16}},
        {"geometry": {"layers": 3}},
        {"geometry": {"kv_heads": 1}},
        {"geometry": {"head_dim": 16}},
    ],
    ids=str,
)
def test_any_difference_changes_it(changes: dict[str, Any]) -> None:
    """Each part that a block's content depends on is covered."""
    assert made(**changes) != made()


def test_it_does_not_depend_on_the_process() -> None:
    """The same inputs give the same digits everywhere, today and tomorrow."""
    assert made() == made()
    assert made() == "1e8dacea220c4de6453eaeadb217ce5929128309fd1bb1b4c516bd9adb2e4104"

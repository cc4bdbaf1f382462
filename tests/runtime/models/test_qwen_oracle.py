"""Qwen 2 and Qwen 3 agree with transformers, from safetensors and from GGUF."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from steelyard_runtime.checkpoint_files.model_config import read_model_config
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.models.gguf_loader import gguf_name
from steelyard_runtime.testing.paged_runs import PagedRun

# float32 against float32; only the order of the sums differs.
TOLERANCE = 2e-4
PROMPT = [(7 * i * i + 3) % 97 for i in range(75)]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {}),
    "qwen2-untied": ("Qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-bias": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
}


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
@pytest.mark.parametrize(("name", "changes"), VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_equal_transformers(
    tiny_model: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict[str, Any],
    kernels: str,
) -> None:
    """At all positions, prefilled in uneven chunks, whichever kernels compute."""
    monkeypatch.setenv("STEELYARD_KERNELS", kernels)
    path, oracle = tiny_model(name, **changes)
    run = PagedRun.of_path(path, block_tokens=8)
    sequence = run.sequence(PROMPT)

    parts = [run.step((sequence, count))[0] for count in (1, 30, 7, 37)]

    assert (torch.cat(parts) - oracle.logits(PROMPT)).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["Qwen2", "Qwen3"])
def test_a_gguf_file_has_the_same_logits(tiny_model: Any, tmp_path: Path, name: str) -> None:
    """Rows are in Hugging Face's order there: llama.cpp rotates Qwen's halves, not pairs."""
    changes = {"head_dim": 16} if name == "Qwen3" else {}
    _, oracle = tiny_model(name, **changes)
    path = tmp_path / "tiny.gguf"
    write(path, name.lower(), oracle.model)
    run = PagedRun.of_path(path)

    (logits,) = run.step((run.sequence(PROMPT), len(PROMPT)))

    assert (logits - oracle.logits(PROMPT)).abs().max() < TOLERANCE


def write(path: Path, architecture: str, model: Any) -> None:
    """Write a model as llama.cpp's converter names it, in float32."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e4)  # the default of both
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    for name, parameter in model.named_parameters():
        writer.add_tensor(gguf_name(name), parameter.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_sliding_window_is_refused(tiny_model: Any) -> None:
    """Its tokens would see what they must not."""
    path, _ = tiny_model("Qwen2", use_sliding_window=True, sliding_window=32)

    with pytest.raises(CheckpointError, match="use_sliding_window is true; must be false"):
        read_model_config(path)

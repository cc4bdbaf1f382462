"""Qwen 2 and Qwen 3 agree with transformers, from safetensors and from GGUF."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from steelyard_runtime.checkpoint_files.model_config import read_model_config
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.models.gguf_loader import gguf_name
from steelyard_runtime.testing.oracle import Oracle
from steelyard_runtime.testing.paged_runs import PagedRun

# float32 against float32; only the order of the sums differs.
TOLERANCE = 2e-4
PROMPT = [(7 * i * i + 3) % 97 for i in range(75)]
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {}),
    "qwen2-untied": ("Qwen2", {"tie_word_embeddings": False}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-bias": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
}


def tiny(name: str, changes: dict[str, Any]) -> Any:
    """Return a random model of transformers, all of whose parameters matter."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SHAPE | changes)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases start at constants
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    return model


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
@pytest.mark.parametrize(("name", "changes"), VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_equal_transformers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict[str, Any],
    kernels: str,
) -> None:
    """At all positions, prefilled in uneven chunks, whichever kernels compute."""
    monkeypatch.setenv("STEELYARD_KERNELS", kernels)
    model = tiny(name, changes)
    model.save_pretrained(tmp_path)
    run = PagedRun.of_path(tmp_path, block_tokens=8)
    sequence = run.sequence(PROMPT)

    parts = [run.step((sequence, count))[0] for count in (1, 30, 7, 37)]

    assert (torch.cat(parts) - Oracle(model).logits(PROMPT)).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["Qwen2", "Qwen3"])
def test_a_gguf_file_has_the_same_logits(tmp_path: Path, name: str) -> None:
    """Rows are in Hugging Face's order there: llama.cpp rotates Qwen's halves, not pairs."""
    changes = {"head_dim": 16} if name == "Qwen3" else {}
    model = tiny(name, changes)
    path = tmp_path / "tiny.gguf"
    write(path, name.lower(), model)
    run = PagedRun.of_path(path)

    (logits,) = run.step((run.sequence(PROMPT), len(PROMPT)))

    assert (logits - Oracle(model).logits(PROMPT)).abs().max() < TOLERANCE


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
    writer.add_rope_freq_base(1e4)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    for name, parameter in model.named_parameters():
        writer.add_tensor(gguf_name(name), parameter.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_sliding_window_is_refused(tmp_path: Path) -> None:
    """Its tokens would see what they must not."""
    tiny("Qwen2", {"use_sliding_window": True, "sliding_window": 32}).save_pretrained(tmp_path)

    with pytest.raises(CheckpointError, match="use_sliding_window is true; must be false"):
        read_model_config(tmp_path)

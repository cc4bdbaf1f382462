"""GGUF tensors arrive as transformers reads them, or are refused by name."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from steelyard_runtime.checkpoint_files.gguf_header import ENCODINGS
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.models.checkpoint import open_checkpoint
from steelyard_runtime.models.gguf_dequantization import dequantize
from steelyard_runtime.models.gguf_loader import unpermute
from steelyard_runtime.models.registry import load_model


@pytest.mark.parametrize("kind", ENCODINGS, ids=[one.name for one in ENCODINGS.values()])
def test_dequantisation_equals_ggufs(kind: int) -> None:
    """Every encoding gives the very floats of the `gguf` package."""
    encoding = ENCODINGS[kind]
    rows = np.random.default_rng(kind).integers(
        0, 120, (64, 2 * encoding.block_bytes), dtype=np.uint8
    )
    expected = gguf.quants.dequantize(rows, GGMLQuantizationType(kind))

    values = dequantize(torch.from_numpy(rows.reshape(-1)), encoding)

    assert np.array_equal(values.float().numpy(), expected.reshape(-1))


@pytest.mark.parametrize(("kind", "size"), gguf.GGML_QUANT_SIZES.items(), ids=str)
def test_block_sizes_equal_ggufs(kind: GGMLQuantizationType, size: tuple[int, int]) -> None:
    """The table of encodings agrees with the `gguf` package."""
    encoding = ENCODINGS.get(int(kind))

    assert encoding is None or (encoding.name, encoding.block_values, encoding.block_bytes) == (
        kind.name,
        *size,
    )


def test_rows_are_put_in_hugging_faces_order() -> None:
    """What llama.cpp's converter interleaved is undone."""
    heads, head_dim = 3, 8
    original = torch.arange(heads * head_dim).view(-1, 1).expand(-1, 2).float()
    # LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py.
    stored = original.view(heads, 2, head_dim // 2, 2).transpose(1, 2).reshape(-1, 2)

    assert torch.equal(unpermute(stored, heads).reshape(-1, 2), original)


def load(path: Path) -> Any:
    return load_model(open_checkpoint(path), torch.device("cpu"), torch.float32, 16)


def test_a_gguf_file_loads(write_gguf: Any) -> None:
    """A complete file becomes a model with the shape that its metadata says."""
    model = load(write_gguf())

    assert (model.vocab_size, model.kv_geometry.kv_heads, model.eos_token_ids) == (50, 2, {2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "mamba"}, "architecture 'mamba'; must be one of: GptOss"),
        (
            {"shapes": {"blk.0.ffn_up.weight": None}},
            "tensor 'blk.0.ffn_up.weight' is missing; the file holds 10 tensors",
        ),
        (
            {"shapes": {"blk.0.attn_k.weight": (32, 32)}},
            r"'blk.0.attn_k.weight' has the shape \[32, 32\]; .* asks for \[16, 32\]",
        ),
    ],
    ids=["architecture", "missing", "shape"],
)
def test_a_wrong_file_is_refused(write_gguf: Any, changes: dict[str, Any], message: str) -> None:
    """The file, the tensor and what is allowed are in the sentence."""
    with pytest.raises(CheckpointError, match=message):
        load(write_gguf(**changes))


@pytest.mark.parametrize("name", ["missing.gguf", "notes.txt"])
def test_no_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    """A path that is neither format says which formats there are."""
    (tmp_path / "notes.txt").write_text("hello")

    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(tmp_path / name)


def test_a_missing_safetensors_tensor_is_refused(tiny_model: Any) -> None:
    """The directory and the tensor are named."""
    path, _ = tiny_model()
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(
        config.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4')
    )

    with pytest.raises(CheckpointError, match=r"'model.layers.3.*' is missing"):
        load(path)

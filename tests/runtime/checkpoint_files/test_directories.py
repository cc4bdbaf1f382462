"""A Hugging Face directory is checked before its weights are read."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.checkpoint_files.model_config import read_model_config
from steelyard_runtime.checkpoint_files.safetensors_header import read_safetensors_headers
from steelyard_runtime.errors import CheckpointError

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": [1, 2],
}


def write_config(directory: Path, **changes: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    return directory


def write_weights(directory: Path, table: Any, data_bytes: int = 16) -> Path:
    header = json.dumps(table).encode() if not isinstance(table, bytes) else table
    path = directory / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(data_bytes))
    return directory


def test_defaults_fill_what_the_configuration_leaves_out(tmp_path: Path) -> None:
    """Key-value heads default to the heads, RoPE to 10,000, eos ids may be a list."""
    config = read_model_config(write_config(tmp_path))

    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (4, 8, 10_000.0)
    assert config.eos_token_ids == {1, 2}


def test_generation_config_decides_the_eos_ids(tmp_path: Path) -> None:
    """generation_config.json wins over config.json, as in transformers."""
    write_config(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7}')

    assert read_model_config(tmp_path).eos_token_ids == {7}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": None}, "'architectures' must be a list"),
        ({"hidden_size": "32"}, "'hidden_size' must be a positive number, got '32'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; must be 'silu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "the method 'gptq'"),
        ({"rope_scaling": {"rope_type": "ntk"}}, "must be one of: default, linear, llama3, yarn"),
        ({"rope_scaling": {"type": "linear"}}, "'factor' must be a positive number, got None"),
        ({"head_dim": 7}, "the head dimension must be even, got 7"),
    ],
)
def test_a_wrong_configuration_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Each wrong field is named with what was found."""
    with pytest.raises(CheckpointError, match=message):
        read_model_config(write_config(tmp_path, **changes))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"{", "its header is not valid JSON"),
        ([], "its header is not an object"),
        ({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, "'a' ends at byte"),
        ({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 16]}}, "must have 36 bytes"),
        ({"a": {"dtype": "F32"}}, "the entry of tensor 'a' is damaged"),
    ],
)
def test_damaged_weights_are_refused(tmp_path: Path, table: Any, message: str) -> None:
    """The file and the tensor are named."""
    with pytest.raises(CheckpointError, match=message):
        read_safetensors_headers(write_weights(tmp_path, table))


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 1 << 40) + b"{}"])
def test_a_truncated_header_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that ends inside its own header is named as truncated."""
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match="is truncated or not a safetensors file"):
        read_safetensors_headers(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    """The names of the expected files are given."""
    with pytest.raises(CheckpointError, match=r"expected model.safetensors or"):
        read_safetensors_headers(tmp_path)


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    """An index that names a file that is not there is refused, also outside the directory."""
    index = {"weight_map": {"a": "../model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match=r"names '../model-1.safetensors', which is not in"):
        read_safetensors_headers(tmp_path)

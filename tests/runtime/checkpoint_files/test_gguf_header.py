"""A GGUF header is read completely, and damage anywhere in it is one sentence."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard_runtime.checkpoint_files.gguf_header import read_gguf_header
from steelyard_runtime.checkpoint_files.model_config import read_model_config
from steelyard_runtime.errors import CheckpointError


def test_metadata_and_tensors_are_read(write_gguf: Any) -> None:
    """Scalars, strings, arrays and the tensor table come back as they were written."""
    header = read_gguf_header(write_gguf())

    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "é", "<eos>"]
    assert header.metadata["llama.block_count"] == 1
    assert header.tensors["token_embd.weight"].shape == (50, 32)


def test_a_configuration_is_read_from_the_metadata(write_gguf: Any) -> None:
    """The model's shape and its end-of-sequence id come from the header alone."""
    config = read_model_config(write_gguf())

    assert (config.architecture, config.num_kv_heads, config.head_dim) == ("LlamaForCausalLM", 2, 8)
    assert config.eos_token_ids == {2}
    assert config.tie_word_embeddings


@pytest.mark.parametrize("keep", [5, 30, 200, 600, -1])
def test_a_truncated_file_is_refused(write_gguf: Any, keep: int) -> None:
    """A download that stopped is named as such, wherever it stopped."""
    path = write_gguf()
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(CheckpointError, match="is truncated"):
        read_gguf_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must start with 'GGUF'"),
        (b"PK\x03\x04 something else", "must start with 'GGUF'"),
        (b"GGUF\x01\x00\x00\x00" + bytes(32), "has GGUF version 1; must be one of: 2, 3"),
        (b"GGUF\x00\x00\x00\x03" + bytes(32), "little endian"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Wrong magic and unknown versions are named."""
    path = tmp_path / "model.gguf"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=message):
        read_gguf_header(path)


def test_an_unsupported_encoding_is_refused(write_gguf: Any) -> None:
    """The error names the tensor and the encodings that can be loaded."""
    path = write_gguf()
    content = bytearray(path.read_bytes())
    name = content.index(b"blk.0.ffn_gate.weight") + len(b"blk.0.ffn_gate.weight")
    content[name + 4 + 16] = 16  # after the number of dimensions and two sizes: IQ2_XXS
    path.write_bytes(content)

    with pytest.raises(
        CheckpointError, match=r"'blk.0.ffn_gate.weight' has the ggml type IQ2_XXS.*F32"
    ):
        read_gguf_header(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"block_count": None}, "'llama.block_count' must be a positive number, got None"),
        ({"attention.head_count": 0}, "'llama.attention.head_count' must be a positive number"),
        ({"attention.head_count_kv": 3}, "must be a multiple of the 3 key-value heads"),
        ({"rope.dimension_count": 4}, "llama.rope.dimension_count is 4; must be the head's 8"),
    ],
)
def test_a_wrong_configuration_is_refused(
    write_gguf: Any, metadata: dict[str, Any], message: str
) -> None:
    """Missing and impossible sizes are named with their field."""
    with pytest.raises(CheckpointError, match=message):
        read_model_config(write_gguf(metadata=metadata))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 1500), value=st.integers(0, 255))
def test_any_damaged_byte_is_read_or_refused(write_gguf: Any, at: int, value: int) -> None:
    """No damage makes the reader fail in another way, or allocate what the file cannot hold."""
    path = write_gguf()
    content = bytearray(path.read_bytes())
    content[at % len(content)] = value
    path.write_bytes(content)

    try:
        read_model_config(path)
    except CheckpointError as error:
        assert str(path) in str(error)

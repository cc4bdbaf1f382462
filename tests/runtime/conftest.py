"""A GGUF file with a tiny Llama's tensors, written by the `gguf` package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

SHAPES = {
    "token_embd.weight": (50, 32),
    "output_norm.weight": (32,),
    "blk.0.attn_norm.weight": (32,),
    "blk.0.ffn_norm.weight": (32,),
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (16, 32),
    "blk.0.attn_v.weight": (16, 32),
    "blk.0.attn_output.weight": (32, 32),
    "blk.0.ffn_gate.weight": (64, 32),
    "blk.0.ffn_up.weight": (64, 32),
    "blk.0.ffn_down.weight": (32, 64),
}

WriteGGUF = Callable[..., Path]


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGGUF:
    """Write the file; arguments replace or (None) drop tensors and metadata."""

    def write(
        shapes: dict[str, tuple[int, ...] | None] | None = None,
        metadata: dict[str, Any] | None = None,
        architecture: str = "llama",
    ) -> Path:
        path = tmp_path / "tiny.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        numbers = {
            "block_count": 1,
            "context_length": 64,
            "embedding_length": 32,
            "feed_forward_length": 64,
            "attention.head_count": 4,
            "attention.head_count_kv": 2,
        }
        for key, value in (numbers | (metadata or {})).items():
            if value is not None:
                writer.add_uint32(f"{architecture}.{key}", value)
        writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
        writer.add_token_list(["a", "é", "<eos>"])
        writer.add_eos_token_id(2)
        draw = np.random.default_rng(0)
        for name, shape in (SHAPES | (shapes or {})).items():
            if shape is not None:
                writer.add_tensor(name, draw.standard_normal(shape).astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write

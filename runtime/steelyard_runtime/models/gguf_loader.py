"""Weights of a GGUF file, dequantised, under Hugging Face's names and in its row order."""

import mmap
import re
from pathlib import Path

import torch
from torch import Tensor

from steelyard_runtime.checkpoint_files.architectures import LLAMA
from steelyard_runtime.checkpoint_files.gguf_header import TensorEntry, read_gguf_header
from steelyard_runtime.checkpoint_files.model_config import config_from_gguf
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.models.checkpoint import require_shape
from steelyard_runtime.models.gguf_dequantization import dequantize

_TOP = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_ROPE_FACTORS = "rope_freqs.weight"


class GGUFCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = read_gguf_header(path)
        self.config = config_from_gguf(self.header)
        with path.open("rb") as file:
            # A private writable map: torch warns about read-only memory.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def has(self, name: str) -> bool:
        """See `Checkpoint`."""
        return gguf_name(name) in self.header.tensors

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """See `Checkpoint`."""
        self._entry(gguf_name(name), shape)

    def _entry(self, stored: str, shape: tuple[int, ...]) -> TensorEntry:
        entry = self.header.tensors.get(stored)
        if entry is None:
            raise CheckpointError(
                f"{self.path}: tensor '{stored}' is missing; "
                f"the file holds {len(self.header.tensors)} tensors"
            )
        require_shape(self.path, stored, entry.shape, shape)
        return entry

    def read_into(self, name: str, destination: Tensor) -> None:
        """See `Checkpoint`."""
        stored = gguf_name(name)
        values = self._values(self._entry(stored, tuple(destination.shape)))
        # Only Llama's rows are in llama.cpp's own order.
        if self.config.architecture == LLAMA and ".attn_q." in stored:
            values = unpermute(values, self.config.num_heads)
        elif self.config.architecture == LLAMA and ".attn_k." in stored:
            values = unpermute(values, self.config.num_kv_heads)
        destination.view(values.shape).copy_(values)

    def rope_factors(self) -> Tensor | None:
        """See `Checkpoint`; Llama 3.1 files hold the llama3 scaling as a tensor."""
        entry = self.header.tensors.get(_ROPE_FACTORS)
        if entry is None:
            return None
        require_shape(self.path, _ROPE_FACTORS, entry.shape, (self.config.head_dim // 2,))
        return self._values(entry)

    def _values(self, entry: TensorEntry) -> Tensor:
        raw = torch.frombuffer(
            self._map, dtype=torch.uint8, count=entry.num_bytes, offset=entry.offset
        )
        return dequantize(raw, entry.encoding).view(entry.shape)


def gguf_name(name: str) -> str:
    """Return GGUF's name of a tensor; names without one are returned as they are."""
    match = _LAYER.fullmatch(name)
    if match:
        layer, module, kind = match.groups()
        return f"blk.{layer}.{_IN_LAYER.get(module, module)}.{kind}"
    module, _, kind = name.rpartition(".")
    return f"{_TOP.get(module, module)}.{kind}"


def unpermute(values: Tensor, heads: int) -> Tensor:
    """Return rows in Hugging Face's order as a view (heads, 2, head_dim / 2, ...).

    llama.cpp's converter interleaves the two halves of each head for its own RoPE; this undoes
    `LlamaModel.permute` of its convert_hf_to_gguf.py.
    """
    rest = values.shape[1:]
    return values.view(heads, values.shape[0] // heads // 2, 2, *rest).transpose(1, 2)

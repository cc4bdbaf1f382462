"""The tensors of one forward pass and the interface of a model."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The tensors of one forward pass: S sequences, T tokens, R rows of logits.

    Query tokens of sequence s are rows [query_starts[s], query_starts[s + 1]); each sequence has
    at least one, and those with one come first. `context_lens` counts the tokens of a sequence up
    to its last query token. Rows of a recorded step beyond its sequences are padding: they have the
    slot -1 and a context of 0.
    """

    token_ids: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64
    slots: Tensor  # (T,) int64: block id * block_size + offset, where each token's KV is written
    query_starts: Tensor  # (S + 1,) int64
    context_lens: Tensor  # (S,) int64
    block_tables: Tensor  # (S, max blocks) int64, padded with 0
    logit_rows: Tensor  # (R,) int64, rows of T
    # Host copies of the numbers that decide launches, so that no kernel reads tensors back.
    max_query_len: int
    max_context_len: int
    single_sequences: int  # how many have one query token
    chunk_context_tokens: int  # the sum of the others' context_lens


@dataclass(frozen=True, slots=True)
class KVGeometry:
    """The shape of one KV group's pool: (blocks, layers, 2, kv_heads, block_tokens, head_dim)."""

    layers: int
    kv_heads: int
    head_dim: int
    block_tokens: int
    dtype: torch.dtype

    @property
    def block_bytes(self) -> int:
        """Bytes of one block: all layers, keys and values of `block_tokens` tokens."""
        elements = self.layers * 2 * self.kv_heads * self.block_tokens * self.head_dim
        return elements * self.dtype.itemsize


class Model(Protocol):
    """A loaded model."""

    vocab_size: int
    max_position: int
    kv_geometry: KVGeometry
    eos_token_ids: frozenset[int]
    # Whether a decode step may be recorded as a CUDA graph: nothing in it reads the device.
    supports_graphs: bool

    def forward(self, batch: ForwardBatch, kv_pool: Tensor) -> Tensor:
        """Write the batch's KV into `kv_pool` and return logits (R, vocab) in float32."""
        ...

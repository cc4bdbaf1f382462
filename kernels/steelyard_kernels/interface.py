"""The ops that a model calls: one op, one name, and what each must compute.

`reference/` is the specification; the other implementations are compared with it.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """S sequences with T query tokens; see `steelyard_runtime.models.batch.ForwardBatch`."""

    query_starts: Tensor  # (S + 1,) int64
    context_lens: Tensor  # (S,) int64, tokens up to the last query token
    block_tables: Tensor  # (S, max blocks) int64
    max_query_len: int
    max_context_len: int


class Linear(Protocol):
    """A projection whose weight never changes."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T + bias`, (T, outputs) of (T, inputs)."""
        ...


class Ops(Protocol):
    """One implementation of every op.

    `kv_layer` is one layer's view of the pool: (blocks, 2, kv_heads, block_tokens, head_dim),
    keys at [:, 0] and values at [:, 1], strided over the layers.
    """

    name: str

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """Return the projection by `weight` (outputs, inputs), in the layout that it likes."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Return `x / sqrt(mean(x^2) + eps) * weight` over the last dimension."""
        ...

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Add `x` to `residual` in place and return the sum's `rms_norm`; both (T, hidden)."""
        ...

    def rope_write_kv(
        self, qkv: Tensor, cos_sin: Tensor, positions: Tensor, slots: Tensor, kv_layer: Tensor
    ) -> Tensor:
        """Rotate queries and keys, write keys and values to their slots, return the queries.

        Args:
            qkv: (T, (heads + 2 * kv_heads) * head_dim), queries then keys then values.
            cos_sin: (max position, head_dim) float32, cosines then sines of head_dim / 2 angles.
            positions: (T,) int64, rows of `cos_sin`.
            slots: (T,) int64, block id * block_tokens + offset.
            kv_layer: written in place.

        Returns:
            The rotated queries, (T, heads, head_dim).
        """
        ...

    def paged_attention(
        self, query: Tensor, kv_layer: Tensor, batch: AttentionBatch, scale: float
    ) -> Tensor:
        """Return causal attention over each query's own sequence, (T, heads * head_dim).

        The last query token of a sequence sits at position `context_lens - 1`.
        """
        ...

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """Return `silu(gate) * up` of (T, 2 * width), gates in the first half."""
        ...

"""The ops that a model calls: one op, one name, and what each must compute.

`reference/` is the specification; the other implementations are compared with it.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """S sequences with T query tokens; see `steelyard_runtime.models.batch.ForwardBatch`.

    The sequences with one query token come first.
    """

    query_starts: Tensor  # (S + 1,) int64
    context_lens: Tensor  # (S,) int64, tokens up to the last query token
    block_tables: Tensor  # (S, max blocks) int64
    max_query_len: int
    max_context_len: int
    single_sequences: int  # how many have one query token
    chunk_context_tokens: int  # the sum of the others' context_lens


class Linear(Protocol):
    """A projection whose weight never changes."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T + bias`, (T, outputs) of (T, inputs)."""
        ...


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """E matrices (rows, columns) as gpt-oss's checkpoints have them.

    4-bit floats e2m1, the low half of a byte first, with one exponent e8m0 for 32 of them (OCP
    Microscaling Formats, 2023): value * 2^(scale - 127).
    """

    blocks: Tensor  # (E, rows, columns / 32, 16) uint8
    scales: Tensor  # (E, rows, columns / 32) uint8


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """A mixture of E experts as gpt-oss has it: clamped SwiGLU, biases, weights in MXFP4."""

    gate_up: Mxfp4  # (2 * inner, hidden): gates in even rows, ups in odd ones
    gate_up_bias: Tensor  # (E, 2 * inner), in the same order
    down: Mxfp4  # (hidden, inner)
    down_bias: Tensor  # (E, hidden)
    top: int  # experts of a token
    alpha: float = 1.702
    limit: float = 7.0


class Experts(Protocol):
    """A mixture whose weights never change."""

    def __call__(self, x: Tensor, logits: Tensor) -> Tensor:
        """Return (T, hidden) of x (T, hidden) and the router's logits (T, E).

        The `top` experts of each token are weighted by the softmax over their logits. An expert
        computes `down((up + 1) * gate * sigmoid(alpha * gate))`, the gate clamped from above and
        the up on both sides by `limit`.
        """
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
        self,
        query: Tensor,
        kv_layer: Tensor,
        batch: AttentionBatch,
        scale: float,
        *,
        sinks: Tensor | None = None,
        window: int = 0,
    ) -> Tensor:
        """Return causal attention over each query's own sequence, (T, heads * head_dim).

        The last query token of a sequence sits at position `context_lens - 1`.

        Args:
            query: (T, heads, head_dim).
            kv_layer: see above.
            batch: whose tokens they are.
            scale: of the products.
            sinks: (heads,) float32, one more logit a head that has no value; None: none.
            window: a query sees so many of the last tokens, itself included; 0: all.
        """
        ...

    def experts(self, weights: ExpertWeights) -> Experts:
        """Return the mixture of these experts, its weights in the layout that it likes."""
        ...

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """Return `silu(gate) * up` of (T, 2 * width), gates in the first half."""
        ...

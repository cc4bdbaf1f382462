"""All ops in plain torch, on any device. Clear before fast."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

from steelyard_kernels.interface import AttentionBatch, ExpertWeights
from steelyard_kernels.reference.attention import paged_attention
from steelyard_kernels.reference.experts import ReferenceExperts


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise in float32, as Hugging Face's LlamaRMSNorm does."""
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def rope(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Tensor:
    """Rotate pairs (i, i + head_dim / 2) as Hugging Face does; x is (T, heads, head_dim)."""
    half = x.shape[-1] // 2
    table = cos_sin[positions].unsqueeze(1)
    cos, sin = table[..., :half], table[..., half:]
    first, second = x[..., :half].float(), x[..., half:].float()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def write_kv(key: Tensor, value: Tensor, slots: Tensor, kv_layer: Tensor) -> None:
    """Write (T, kv_heads, head_dim) keys and values to their slots."""
    block_tokens = kv_layer.shape[3]
    blocks, offsets = slots // block_tokens, slots % block_tokens
    kv_layer[blocks, 0, :, offsets] = key.to(kv_layer.dtype)
    kv_layer[blocks, 1, :, offsets] = value.to(kv_layer.dtype)


class PlainLinear:
    """`torch.nn.functional.linear` with its weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return (T, outputs) of (T, inputs)."""
        return F.linear(x, self.weight, self.bias)


class ReferenceOps:
    """The specification; see `Ops` for the arguments."""

    name = "reference"

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> PlainLinear:
        """See `Ops`."""
        return PlainLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops`."""
        return rms_norm(x, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops`."""
        return rms_norm(residual.add_(x), weight, eps)

    def rope_write_kv(
        self, qkv: Tensor, cos_sin: Tensor, positions: Tensor, slots: Tensor, kv_layer: Tensor
    ) -> Tensor:
        """See `Ops`."""
        kv_heads, head_dim = kv_layer.shape[2], kv_layer.shape[4]
        by_head = qkv.view(qkv.shape[0], -1, head_dim)
        heads = by_head.shape[1] - 2 * kv_heads
        rotated = rope(by_head[:, : heads + kv_heads], cos_sin, positions)
        write_kv(rotated[:, heads:], by_head[:, heads + kv_heads :], slots, kv_layer)
        return rotated[:, :heads]

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
        """See `Ops`."""
        return paged_attention(query, kv_layer, batch, scale, sinks=sinks, window=window)

    def experts(self, weights: ExpertWeights) -> ReferenceExperts:
        """See `Ops`."""
        return ReferenceExperts(weights)

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """See `Ops`."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

"""A mixture of experts in plain torch, one expert after the other."""

import torch
from torch import Tensor

from steelyard_kernels.interface import ExpertWeights, Mxfp4

# By the four bits of e2m1: sign, exponent, mantissa.
_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def dequantize(weight: Mxfp4, dtype: torch.dtype) -> Tensor:
    """Return (E, rows, columns); exact in bfloat16 and float32 wherever it is in range."""
    table = torch.tensor(
        (*_VALUES, *(-value for value in _VALUES)), dtype=dtype, device=weight.blocks.device
    )
    low, high = weight.blocks & 15, weight.blocks >> 4
    codes = torch.stack((low, high), dim=-1).flatten(-2)  # (E, rows, columns / 32, 32)
    exponents = weight.scales.to(torch.int32).unsqueeze(-1) - 127
    return torch.ldexp(table[codes.int()], exponents).to(dtype).flatten(-2)


def clamped_swiglu(gate_up: Tensor, alpha: float, limit: float) -> Tensor:
    """Return gpt-oss's activation of (T, 2 * inner), gates in even columns."""
    gate = gate_up[..., ::2].clamp(max=limit)
    up = gate_up[..., 1::2].clamp(-limit, limit)
    return (up + 1) * gate * torch.sigmoid(alpha * gate)


class ReferenceExperts:
    """See `Experts`. Weights are kept in the activations' dtype."""

    def __init__(self, weights: ExpertWeights) -> None:
        self._weights = weights
        dtype = weights.gate_up_bias.dtype
        self._gate_up = dequantize(weights.gate_up, dtype)
        self._down = dequantize(weights.down, dtype)

    def __call__(self, x: Tensor, logits: Tensor) -> Tensor:
        """See `Experts`."""
        weights = self._weights
        values, chosen = logits.topk(weights.top, dim=-1)
        shares = values.float().softmax(dim=-1).to(x.dtype)
        out = torch.zeros_like(x)
        for expert in range(len(self._gate_up)):
            tokens, slots = (chosen == expert).nonzero(as_tuple=True)
            if not len(tokens):
                continue
            wide = x[tokens] @ self._gate_up[expert].T + weights.gate_up_bias[expert]
            inner = clamped_swiglu(wide, weights.alpha, weights.limit)
            result = inner @ self._down[expert].T + weights.down_bias[expert]
            out.index_add_(0, tokens, result * shares[tokens, slots].unsqueeze(-1))
        return out

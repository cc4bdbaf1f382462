"""The likeliest token of each row of logits, and whether a token can be drawn from it at all.

Both come of one pass: a maximum takes NaN for the greatest value, so one number a row tells NaN,
plus infinity and a row of nothing but minus infinity from finite logits.
"""

import torch
from torch import Tensor

NOT_FINITE = -1
"""Stands for a token where there is none."""


class NotFiniteLogitsError(Exception):
    """A row of the model's own logits is not finite."""

    def __init__(self) -> None:
        super().__init__(
            "the model's logits are not finite (NaN or infinity) at this position; its weights or "
            "its KV cache are damaged"
        )


def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's likeliest token without waiting for the device.

    Args:
        logits: (..., V) float32.

    Returns:
        tokens (...) int64, each below V; the same, `NOT_FINITE` where a row is not finite.
    """
    tokens = logits.argmax(dim=-1)
    values = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return tokens, torch.where(torch.isfinite(values), tokens, NOT_FINITE)


def is_finite(logits: Tensor) -> Tensor:
    """Return whether each row of logits (..., V) is finite, (...) bool; much cheaper on a CPU."""
    return torch.isfinite(logits.amax(dim=-1))

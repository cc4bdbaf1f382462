"""Matrix multiplication with a weight that never changes."""

import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor


class Linear:
    """`x @ weight.T + bias`; `weight` is (out, in)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return (T, out) of (T, in)."""
        return F.linear(x, self.weight, self.bias)

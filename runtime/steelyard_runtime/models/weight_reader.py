"""Weights from a checkpoint to where the model runs."""

import torch
from torch import Tensor

from steelyard_kernels.interface import Linear, Ops
from steelyard_runtime.models.checkpoint import Checkpoint


class WeightReader:
    """Reads parameters in the model's dtype and puts them on its device."""

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, ops: Ops
    ) -> None:
        self.ops = ops
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype

    def parameter(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return one tensor, of the model's dtype unless another is given."""
        self.checkpoint.require(name, shape)
        host = torch.empty(shape, dtype=dtype or self.dtype)
        self.checkpoint.read_into(name, host)
        return host.to(self.device)

    def fused(
        self, prefix: str, parts: list[tuple[str, int]], inputs: int, *, bias: bool
    ) -> Linear:
        """Return projections of the same input, each (name, outputs), as one."""
        for name, size in parts:
            self.checkpoint.require(f"{prefix}{name}.weight", (size, inputs))
        outputs = sum(size for _, size in parts)
        weight = torch.empty((outputs, inputs), dtype=self.dtype)
        biases = torch.empty(outputs, dtype=self.dtype) if bias else None
        start = 0
        for name, size in parts:
            rows = slice(start, start + size)
            self.checkpoint.read_into(f"{prefix}{name}.weight", weight[rows])
            if biases is not None:
                self.checkpoint.read_into(f"{prefix}{name}.bias", biases[rows])
            start += size
        return self.ops.linear(
            weight.to(self.device), None if biases is None else biases.to(self.device)
        )

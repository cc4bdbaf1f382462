"""Choose the implementation of the ops for a device. Nothing here computes."""

import os
from collections.abc import Mapping

import torch

from steelyard_kernels.interface import Ops
from steelyard_kernels.reference.ops import ReferenceOps

VARIABLE = "STEELYARD_KERNELS"


def select_ops(
    device: torch.device, dtype: torch.dtype, environment: Mapping[str, str] = os.environ
) -> Ops:
    """Return the fastest implementation that runs for `dtype` on `device`.

    `STEELYARD_KERNELS=reference` in the environment takes the reference everywhere.

    Raises:
        ValueError: the variable has another value.
    """
    wanted = environment.get(VARIABLE, "auto")
    if wanted not in ("auto", "reference"):
        raise ValueError(f"{VARIABLE} must be one of: auto, reference; got '{wanted}'")
    return ReferenceOps()

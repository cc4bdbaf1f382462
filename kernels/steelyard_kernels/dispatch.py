"""Choose the implementation of the ops for a device. Nothing here computes."""

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from steelyard_kernels.interface import Ops
from steelyard_kernels.llama_weights import LlamaShape, LlamaWeights
from steelyard_kernels.reference.ops import ReferenceOps

if TYPE_CHECKING:
    from steelyard_kernels.cpu.llama import FusedLlama

VARIABLE = "STEELYARD_KERNELS"
CHOICES = ("auto", "reference", "cpu", "cuda")

_log = logging.getLogger(__name__)


def select_ops(
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    group: int,
    environment: Mapping[str, str] = os.environ,
    *,
    hidden: int = 64,
    block_tokens: int = 16,
    sinks: bool = False,
) -> Ops:
    """Return the fastest implementation that runs here.

    Args:
        device: where the tensors are.
        dtype: of weights, activations and KV cache.
        head_dim: of the attention heads.
        group: query heads that share a key-value head.
        environment: `STEELYARD_KERNELS=reference` takes the reference everywhere; `cpu` and `cuda`
            refuse to fall back to it.
        hidden: the width of the activations.
        block_tokens: tokens of a KV block.
        sinks: whether attention has sinks or windows.

    Raises:
        ValueError: the variable has another value, or what it asks for cannot be had.
    """
    wanted = environment.get(VARIABLE, "auto")
    if wanted not in CHOICES:
        raise ValueError(f"{VARIABLE} must be one of: {', '.join(CHOICES)}; got '{wanted}'")
    if wanted == "reference":
        return ReferenceOps()
    if device.type == "cuda" or wanted == "cuda":
        name = "cuda"
        why_not = _why_not_cuda(device, dtype, head_dim, group)
        why_not = why_not or _why_not_tiles(hidden, block_tokens)
    else:
        name = "cpu"
        why_not = _why_not_cpu(device, dtype, head_dim, group)
        if sinks:
            why_not = why_not or "the model's attention has sinks and windows"
    if wanted not in ("auto", name):
        why_not = f"the device is {device.type}"
    if why_not is None:
        try:
            return _cuda_ops(device) if name == "cuda" else _cpu_ops()
        except (ImportError, OSError, RuntimeError) as error:
            why_not = str(error)
    if wanted != "auto":
        raise ValueError(f"{VARIABLE}={wanted}: {why_not}")
    _log.warning("the %s kernels are not used, plain torch is: %s", name.upper(), why_not)
    return ReferenceOps()


def fused_llama(ops: Ops, shape: LlamaShape, weights: LlamaWeights) -> "FusedLlama | None":
    """Return the whole forward pass as one call, where the implementation of `ops` has that."""
    from steelyard_kernels.cpu.ops import CpuOps

    if not isinstance(ops, CpuOps) or any(layer.head_norm is not None for layer in weights.layers):
        return None
    from steelyard_kernels.cpu.llama import FusedLlama

    return FusedLlama(ops.library, shape, weights)


def _why_not_cpu(device: torch.device, dtype: torch.dtype, head_dim: int, group: int) -> str | None:
    from steelyard_kernels.cpu.library import HEAD_DIMS, MAX_GROUP

    if device.type != "cpu":
        return f"the device is {device.type}"
    if dtype != torch.float32:
        return f"they compute in float32, not {dtype}"
    if head_dim not in HEAD_DIMS:
        return f"the head dimension is {head_dim}, not one of {', '.join(map(str, HEAD_DIMS))}"
    if group > MAX_GROUP:
        return f"{group} query heads share a key-value head, at most {MAX_GROUP} may"
    return None


def _why_not_cuda(
    device: torch.device, dtype: torch.dtype, head_dim: int, group: int
) -> str | None:
    from steelyard_kernels.cuda.launch import HEAD_DIMS, MAX_GROUP

    if device.type != "cuda":
        return f"the device is {device.type}"
    if dtype != torch.bfloat16:
        return f"they compute in bfloat16, not {dtype}"
    if head_dim not in HEAD_DIMS:
        return f"the head dimension is {head_dim}, not one of {', '.join(map(str, HEAD_DIMS))}"
    if group > MAX_GROUP:
        return f"{group} query heads share a key-value head, at most {MAX_GROUP} may"
    return None


def _why_not_tiles(hidden: int, block: int) -> str | None:
    from steelyard_kernels.cuda.launch import TILE_TOKENS

    if hidden % 8:
        return f"the hidden size is {hidden}, not a multiple of 8"
    if block % TILE_TOKENS:
        return f"a KV block has {block} tokens, not a multiple of {TILE_TOKENS}"
    return None


def _cpu_ops() -> Ops:
    from steelyard_kernels.cpu.library import load_library
    from steelyard_kernels.cpu.ops import CpuOps

    return CpuOps(load_library())


def _cuda_ops(device: torch.device) -> Ops:
    from steelyard_kernels.cuda.library import load_library
    from steelyard_kernels.cuda.ops import CudaOps

    return CudaOps(load_library(), device)

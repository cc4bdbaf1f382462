"""The ops through the C++ kernels: float32 on a CPU. Shapes are checked here, once."""

import ctypes

import torch
from torch import Tensor

from steelyard_kernels.cpu.weight_memory import WeightMemory
from steelyard_kernels.interface import AttentionBatch, ExpertWeights
from steelyard_kernels.reference.experts import ReferenceExperts


class PackedLinear:
    """A weight packed in panels of output columns; see csrc/cpu/linear.h."""

    def __init__(
        self, library: ctypes.CDLL, memory: WeightMemory, weight: Tensor, bias: Tensor | None
    ) -> None:
        self.library = library
        self.outputs, self.inputs = weight.shape
        panel = int(library.steelyard_panel())
        self.packed = memory.allocate((-(-self.outputs // panel), self.inputs, panel))
        self.bias = None if bias is None else _float(bias)
        weight = _float(weight)
        library.steelyard_pack(
            weight.data_ptr(), self.outputs, self.inputs, self.packed.data_ptr(), _threads()
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Return (T, outputs) of (T, inputs)."""
        x = _float(x)
        _require(x.dim() == 2 and x.shape[1] == self.inputs, "linear: x must be (T, inputs)")
        out = torch.empty((x.shape[0], self.outputs))
        bias = None if self.bias is None else self.bias.data_ptr()
        self.library.steelyard_linear(
            x.data_ptr(),
            x.shape[0],
            self.inputs,
            self.packed.data_ptr(),
            bias,
            out.data_ptr(),
            self.outputs,
            _threads(),
        )
        return out


class CpuOps:
    """See `Ops`."""

    name = "cpu"

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._memory = WeightMemory()

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> PackedLinear:
        """See `Ops`."""
        return PackedLinear(self.library, self._memory, weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops`."""
        x = _float(x)
        out = torch.empty_like(x)
        self.library.steelyard_rms_norm(
            x.data_ptr(),
            _float(weight).data_ptr(),
            x.numel() // x.shape[-1] if x.numel() else 0,
            x.shape[-1],
            eps,
            out.data_ptr(),
            _threads(),
        )
        return out

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops`."""
        x = _float(x)
        _require(
            residual.is_contiguous() and residual.shape == x.shape,
            "add_rms_norm: residual must be contiguous and of the shape of x",
        )
        out = torch.empty_like(x)
        self.library.steelyard_add_rms_norm(
            x.data_ptr(),
            residual.data_ptr(),
            _float(weight).data_ptr(),
            x.shape[0],
            x.shape[1],
            eps,
            out.data_ptr(),
            _threads(),
        )
        return out

    def rope_write_kv(
        self, qkv: Tensor, cos_sin: Tensor, positions: Tensor, slots: Tensor, kv_layer: Tensor
    ) -> Tensor:
        """See `Ops`."""
        _require_kv(kv_layer)
        qkv = _float(qkv)
        kv_heads, block_tokens, head_dim = kv_layer.shape[2:]
        heads = qkv.shape[1] // head_dim - 2 * kv_heads
        query = torch.empty((qkv.shape[0], heads, head_dim))
        self.library.steelyard_rope_write_kv(
            qkv.data_ptr(),
            qkv.shape[0],
            heads,
            _float(cos_sin).data_ptr(),
            positions.contiguous().data_ptr(),
            slots.contiguous().data_ptr(),
            kv_layer.data_ptr(),
            kv_layer.stride(0),
            kv_layer.stride(1),
            kv_heads,
            block_tokens,
            head_dim,
            query.data_ptr(),
            _threads(),
        )
        return query

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
        """See `Ops`; dispatch gives models with sinks or windows to the reference."""
        _require(sinks is None and not window, "the CPU kernels know no sinks and no windows")
        _require_kv(kv_layer)
        query = _float(query)
        kv_heads, block_tokens, head_dim = kv_layer.shape[2:]
        tables = batch.block_tables.contiguous()
        out = torch.empty((query.shape[0], query.shape[1] * head_dim))
        self.library.steelyard_paged_attention(
            query.data_ptr(),
            query.shape[1],
            kv_layer.data_ptr(),
            kv_layer.stride(0),
            kv_layer.stride(1),
            kv_heads,
            block_tokens,
            head_dim,
            batch.query_starts.contiguous().data_ptr(),
            batch.context_lens.contiguous().data_ptr(),
            tables.data_ptr(),
            tables.shape[1],
            tables.shape[0],
            scale,
            out.data_ptr(),
            _threads(),
        )
        return out

    def experts(self, weights: ExpertWeights) -> ReferenceExperts:
        """See `Ops`."""
        return ReferenceExperts(weights)

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """See `Ops`."""
        gate_up = _float(gate_up)
        width = gate_up.shape[1] // 2
        out = torch.empty((gate_up.shape[0], width))
        self.library.steelyard_silu_and_mul(
            gate_up.data_ptr(), gate_up.shape[0], width, out.data_ptr(), _threads()
        )
        return out


def _threads() -> int:
    return torch.get_num_threads()


def _float(x: Tensor) -> Tensor:
    _require(x.dtype == torch.float32, f"the CPU kernels take float32, got {x.dtype}")
    return x.contiguous()


def _require_kv(kv_layer: Tensor) -> None:
    inner = kv_layer.stride()[2:]
    _, block_tokens, head_dim = kv_layer.shape[2:]
    _require(
        kv_layer.dtype == torch.float32 and inner == (block_tokens * head_dim, head_dim, 1),
        "kv_layer must be float32 and contiguous within keys and values",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

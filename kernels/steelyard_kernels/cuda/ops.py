"""The ops through the CUDA kernels: bf16 on a GPU. Shapes are checked here, once."""

import torch
from torch import Tensor

from steelyard_kernels.cuda.attention import PagedAttention, Score
from steelyard_kernels.cuda.experts import CudaExperts
from steelyard_kernels.cuda.library import CudaLibrary
from steelyard_kernels.interface import AttentionBatch, ExpertWeights
from steelyard_kernels.reference.ops import PlainLinear

VECTOR = 8  # elements of 16 bytes, which every row is read by
MAX_NORM_WIDTH = 32768  # the norms keep a row in registers


class CudaOps:
    """See `Ops`. Dense products are cuBLAS's, through torch."""

    name = "cuda"

    def __init__(self, library: CudaLibrary, device: torch.device) -> None:
        self._library = library
        self.attention = PagedAttention(library, device)

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> PlainLinear:
        """See `Ops`."""
        return PlainLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops`."""
        return self._norm(_rows(x), None, weight, eps)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See `Ops`."""
        _require(
            residual.is_contiguous() and residual.shape == x.shape,
            "add_rms_norm: residual must be contiguous and of the shape of x",
        )
        return self._norm(_rows(x), residual, weight, eps)

    def _norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        _require(width <= MAX_NORM_WIDTH, f"rms_norm: rows may have {MAX_NORM_WIDTH} elements")
        out = torch.empty_like(x)
        rows = x.numel() // width
        if rows:
            self._library.launch(
                "rms_norm",
                x.data_ptr(),
                None if residual is None else residual.data_ptr(),
                weight.data_ptr(),
                out.data_ptr(),
                rows,
                width,
                eps,
            )
        return out

    def rope_write_kv(
        self, qkv: Tensor, cos_sin: Tensor, positions: Tensor, slots: Tensor, kv_layer: Tensor
    ) -> Tensor:
        """See `Ops`; a negative slot is padding and writes nothing."""
        _require_kv(kv_layer)
        qkv = _rows(qkv)
        kv_heads, block_tokens, head_dim = kv_layer.shape[2:]
        heads = qkv.shape[1] // head_dim - 2 * kv_heads
        query = torch.empty((len(qkv), heads, head_dim), dtype=qkv.dtype, device=qkv.device)
        self._library.launch(
            "rope_write_kv",
            qkv.data_ptr(),
            cos_sin.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            kv_layer.data_ptr(),
            kv_layer.stride(0),
            kv_layer.stride(1),
            query.data_ptr(),
            len(qkv),
            heads,
            kv_heads,
            head_dim,
            block_tokens,
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
        """See `Ops`."""
        _require_kv(kv_layer)
        _require(query.is_contiguous(), "paged_attention: query must be contiguous")
        return self.attention(query, kv_layer, batch, Score(scale, sinks, window))

    def experts(self, weights: ExpertWeights) -> CudaExperts:
        """See `Ops`."""
        return CudaExperts(self._library, weights)

    def silu_and_mul(self, gate_up: Tensor) -> Tensor:
        """See `Ops`."""
        gate_up = _rows(gate_up)
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        _require(width % VECTOR == 0, f"silu_and_mul: the width must be a multiple of {VECTOR}")
        out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
        self._library.launch("silu_and_mul", gate_up.data_ptr(), out.data_ptr(), rows, width)
        return out


def _rows(x: Tensor) -> Tensor:
    _require(x.dtype == torch.bfloat16, f"the CUDA kernels take bfloat16, got {x.dtype}")
    _require(x.shape[-1] % VECTOR == 0, f"rows must have a multiple of {VECTOR} elements")
    return x.contiguous()


def _require_kv(kv_layer: Tensor) -> None:
    inner = kv_layer.stride()[2:]
    _, block_tokens, head_dim = kv_layer.shape[2:]
    _require(
        kv_layer.dtype == torch.bfloat16 and inner == (block_tokens * head_dim, head_dim, 1),
        "kv_layer must be bfloat16 and contiguous within keys and values",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

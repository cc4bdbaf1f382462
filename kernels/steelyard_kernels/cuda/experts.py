"""The mixture of experts on a GPU: our grouped product for few tokens, torch's for many."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard_kernels.cuda.launch import MoeLaunch, moe_launch
from steelyard_kernels.cuda.library import CudaLibrary
from steelyard_kernels.cuda.mxfp4 import PackedMxfp4, gated_order, pack
from steelyard_kernels.interface import ExpertWeights


@dataclass(frozen=True, slots=True)
class _Routing:
    """Which tokens go where; all on the device."""

    weights: Tensor  # (T * top,) float32
    chosen: Tensor  # (T * top,) int32
    sorted: Tensor  # (T * top,) int32, by expert
    positions: Tensor  # (T * top,) int32
    ends: Tensor  # (E,) int32
    items: Tensor  # (max items, 4) int32


class CudaExperts:
    """See `Experts`: bfloat16 activations, MXFP4 weights."""

    def __init__(self, library: CudaLibrary, weights: ExpertWeights) -> None:
        self._library = library
        self._top, self._alpha, self._limit = weights.top, weights.alpha, weights.limit
        rows = weights.gate_up.blocks.shape[1]
        order = gated_order(rows, weights.gate_up.blocks.device)
        self.gate_up = pack(weights.gate_up, order)
        self.gate_up_bias = weights.gate_up_bias[:, order].contiguous()
        self.down = pack(weights.down)
        self.down_bias = weights.down_bias.contiguous()

    def __call__(self, x: Tensor, logits: Tensor) -> Tensor:
        """See `Experts`."""
        launch = moe_launch(len(x), len(self.gate_up.words), self._top)
        routing = self._route(logits, launch)
        if launch.tile:
            inner = self._product(self.gate_up, x, routing, launch, gated=True)
            rows = self._product(self.down, inner, routing, launch, gated=False)
        else:
            rows = self._by_library(x, routing)
        out = torch.empty_like(x)
        self._library.launch(
            "combine",
            rows.data_ptr(),
            routing.weights.data_ptr(),
            None if launch.tile else routing.positions.data_ptr(),
            routing.chosen.data_ptr(),
            self.down_bias.data_ptr(),
            out.data_ptr(),
            len(x),
            self._top,
            x.shape[1],
        )
        return out

    def _route(self, logits: Tensor, launch: MoeLaunch) -> _Routing:
        tokens, experts = logits.shape
        count = tokens * self._top
        whole = torch.empty(
            (4 * count + experts + 4 * launch.max_items,), dtype=torch.int32, device=logits.device
        )
        sizes = [4 * launch.max_items, count, count, count, count, experts]
        items, chosen, ranks, order, positions, ends = torch.split(whole, sizes)
        weights = torch.empty(count, dtype=torch.float32, device=logits.device)
        self._library.launch(
            "route",
            logits.data_ptr(),
            weights.data_ptr(),
            chosen.data_ptr(),
            ranks.data_ptr(),
            order.data_ptr(),
            positions.data_ptr(),
            ends.data_ptr(),
            items.data_ptr(),
            tokens,
            experts,
            self._top,
            launch.tile or count,
            launch.max_items,
        )
        return _Routing(weights, chosen, order, positions, ends, items)

    def _product(
        self, weight: PackedMxfp4, x: Tensor, routing: _Routing, launch: MoeLaunch, *, gated: bool
    ) -> Tensor:
        """Return a row for each token and slot, in the order of tokens."""
        width = weight.rows // 2 if gated else weight.rows
        assignments = len(routing.sorted)
        out = torch.empty((assignments, width), dtype=x.dtype, device=x.device)
        bias = self.gate_up_bias if gated else self.down_bias
        self._library.launch(
            "moe_product",
            weight.words.data_ptr(),
            weight.scales.data_ptr(),
            weight.rows // 16,
            weight.columns // 64,
            x.data_ptr(),
            bias.data_ptr(),
            out.data_ptr(),
            routing.sorted.data_ptr(),
            routing.items.data_ptr(),
            assignments // len(x),
            width,
            launch.max_items,
            launch.tile,
            int(gated),
            int(launch.split),
            self._alpha,
            self._limit,
        )
        return out

    def _by_library(self, x: Tensor, routing: _Routing) -> Tensor:
        """Return the rows in the order of experts, the last bias still to be added."""
        wide = torch._grouped_mm(
            x[(routing.sorted // self._top).long()],
            self._unpacked(self.gate_up, x.dtype).transpose(1, 2),
            offs=routing.ends,
        )
        count, width = len(wide), wide.shape[1] // 2
        inner = torch.empty((count, width), dtype=x.dtype, device=x.device)
        self._library.launch(
            "gate_rows",
            wide.data_ptr(),
            self.gate_up_bias.data_ptr(),
            routing.sorted.data_ptr(),
            routing.chosen.data_ptr(),
            inner.data_ptr(),
            count,
            width,
            self._alpha,
            self._limit,
        )
        unpacked = self._unpacked(self.down, x.dtype)
        return torch._grouped_mm(inner, unpacked.transpose(1, 2), offs=routing.ends)

    def _unpacked(self, weight: PackedMxfp4, dtype: torch.dtype) -> Tensor:
        experts = len(weight.words)
        out = torch.empty(
            (experts, weight.rows, weight.columns), dtype=dtype, device=weight.words.device
        )
        self._library.launch(
            "unpack_mxfp4",
            weight.words.data_ptr(),
            weight.scales.data_ptr(),
            weight.rows // 16,
            weight.columns // 64,
            out.data_ptr(),
            out.numel() // (16 * 64),
        )
        return out

"""The mixture of experts against the time to read the chosen experts' weights once."""

from typing import Any

import torch

from steelyard_kernels.bench.timing import microseconds
from steelyard_kernels.cuda.experts import CudaExperts
from steelyard_kernels.cuda.launch import MoeLaunch, moe_launch
from steelyard_kernels.cuda.library import CudaLibrary
from steelyard_kernels.interface import ExpertWeights, Mxfp4
from steelyard_kernels.reference.experts import dequantize

EXPERTS, TOP, HIDDEN, INNER = 32, 4, 2880, 2880  # gpt-oss-20b
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192)
# 0.42 GB each: neither is in the cache when its turn comes.
LAYERS = 2


def measure(library: CudaLibrary, copy_bandwidth: float) -> list[dict[str, Any]]:
    """Return a row for each number of tokens; the mixture is routing, both products and the sum."""
    layers = [CudaExperts(library, _weights()) for _ in range(LAYERS)]
    dense = _weights()
    unpacked = dequantize(dense.gate_up, torch.bfloat16), dequantize(dense.down, torch.bfloat16)
    return [_row(library, layers, unpacked, tokens, copy_bandwidth) for tokens in TOKENS]


def _row(
    library: CudaLibrary,
    layers: list[CudaExperts],
    unpacked: tuple[torch.Tensor, torch.Tensor],
    tokens: int,
    copy_bandwidth: float,
) -> dict[str, Any]:
    x = torch.randn(tokens, HIDDEN, device="cuda").bfloat16()
    logits = torch.randn(tokens, EXPERTS, device="cuda").bfloat16()
    mine = microseconds(lambda index: layers[index](x, logits), LAYERS)
    chosen = logits.topk(TOP, dim=-1).indices
    used = int((torch.bincount(chosen.flatten(), minlength=EXPERTS) > 0).sum())
    num_bytes = used * (layers[0].gate_up.num_bytes + layers[0].down.num_bytes)
    counts = torch.bincount(chosen.flatten(), minlength=EXPERTS)
    ends = counts.cumsum(0).to(torch.int32)
    rows = torch.randn(tokens * TOP, HIDDEN, device="cuda").bfloat16()
    gate_up, down = unpacked

    def library_call(_: int) -> torch.Tensor:
        wide = torch._grouped_mm(rows, gate_up.transpose(1, 2), offs=ends)
        return torch._grouped_mm(wide[:, :INNER].contiguous(), down.transpose(1, 2), offs=ends)

    theirs = microseconds(library_call, 1)
    operations = 2 * tokens * TOP * 3 * HIDDEN * INNER
    launch: MoeLaunch = moe_launch(tokens, EXPERTS, TOP)
    return {
        "tokens": tokens,
        "tile": launch.tile,
        "microseconds": mine,
        "torch_bf16_microseconds": theirs,
        "ratio": theirs / mine,
        "of_copy_bandwidth": num_bytes / (mine * 1e-6) / copy_bandwidth,
        "tflops": operations / mine / 1e6,
    }


def _weights() -> ExpertWeights:
    def mxfp4(rows: int, columns: int) -> Mxfp4:
        shape = (EXPERTS, rows, columns // 32)
        return Mxfp4(
            torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, device="cuda"),
            torch.randint(118, 122, shape, dtype=torch.uint8, device="cuda"),
        )

    return ExpertWeights(
        mxfp4(2 * INNER, HIDDEN),
        torch.randn(EXPERTS, 2 * INNER, device="cuda").bfloat16(),
        mxfp4(HIDDEN, INNER),
        torch.randn(EXPERTS, HIDDEN, device="cuda").bfloat16(),
        TOP,
    )

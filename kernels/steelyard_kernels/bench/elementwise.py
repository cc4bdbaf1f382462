"""The small fused ops against the copy bandwidth and torch's, for sizes of Llama-3.1-8B."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses

from steelyard_kernels.bench.timing import Call, microseconds, rounds_for
from steelyard_kernels.cuda.ops import CudaOps
from steelyard_kernels.reference import ops as reference

ROWS = (1, 64, 512, 4096, 16384)
HIDDEN, INTERMEDIATE = 4096, 14336
HEADS, KV_HEADS, HEAD_DIM, BLOCK_TOKENS = 32, 8, 128, 16
EPS = 1e-5


def measure(ops: CudaOps, copy_bandwidth: float) -> list[dict[str, Any]]:
    """Return a row for each op and number of rows."""
    rows = []
    for count in ROWS:
        for name, (num_bytes, mine, theirs, rounds) in _calls(ops, count).items():
            ours = microseconds(mine, rounds)
            torchs = microseconds(theirs, rounds)
            rows.append(
                {
                    "op": name,
                    "rows": count,
                    "microseconds": ours,
                    "torch_microseconds": torchs,
                    "ratio": torchs / ours,
                    "of_copy_bandwidth": num_bytes / (ours * 1e-6) / copy_bandwidth,
                }
            )
    return rows


def _calls(ops: CudaOps, count: int) -> dict[str, tuple[int, Call, Call, int]]:
    """Return bytes moved, our call, torch's and the number of input sets, by op."""
    row_bytes = count * HIDDEN * 2
    rounds = rounds_for(2 * row_bytes)
    x = _random(rounds, count, HIDDEN)
    residual = _random(rounds, count, HIDDEN)
    weight = _random(HIDDEN)
    wide_bytes = 3 * count * INTERMEDIATE * 2
    wide_rounds = rounds_for(wide_bytes)
    gate_up = _random(wide_rounds, count, 2 * INTERMEDIATE)
    projected = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    rope_rounds = rounds_for(2 * count * projected * 2)
    qkv = _random(rope_rounds, count, projected)
    blocks = -(-count // BLOCK_TOKENS)
    cache = _random(rope_rounds, blocks, 2, KV_HEADS, BLOCK_TOKENS, HEAD_DIM)
    table = torch.randn(8192, HEAD_DIM, device="cuda")
    positions = torch.arange(count, device="cuda") % 8192
    slots = torch.arange(count, device="cuda")
    plain = reference.ReferenceOps()
    return {
        "rms_norm": (
            2 * row_bytes,
            lambda i: ops.rms_norm(x[i], weight, EPS),
            lambda i: F.rms_norm(x[i], (HIDDEN,), weight, EPS),
            rounds,
        ),
        "add_rms_norm": (
            4 * row_bytes,
            lambda i: ops.add_rms_norm(x[i], residual[i], weight, EPS),
            lambda i: F.rms_norm(residual[i].add_(x[i]), (HIDDEN,), weight, EPS),
            rounds,
        ),
        "silu_and_mul": (
            wide_bytes,
            lambda i: ops.silu_and_mul(gate_up[i]),
            lambda i: plain.silu_and_mul(gate_up[i]),
            wide_rounds,
        ),
        "rope_write_kv": (
            2 * count * projected * 2,
            lambda i: ops.rope_write_kv(qkv[i], table, positions, slots, cache[i]),
            lambda i: plain.rope_write_kv(qkv[i], table, positions, slots, cache[i]),
            rope_rounds,
        ),
    }


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")

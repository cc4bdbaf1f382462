"""Decode attention against the copy bandwidth and torch's, over contexts and batch sizes."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from torch import Tensor

from steelyard_kernels.bench.timing import microseconds, rounds_for
from steelyard_kernels.cuda.attention import PagedAttention, Score
from steelyard_kernels.cuda.launch import Splits
from steelyard_kernels.cuda.library import CudaLibrary
from steelyard_kernels.interface import AttentionBatch

BLOCK_TOKENS = 16
CONTEXTS = (128, 512, 1024, 4096, 16384, 32768)
BATCHES = (1, 8, 32, 64, 256)
# heads, kv_heads, head_dim: Llama-3.1-8B and gpt-oss-20b
MODELS = {"llama-3.1-8b": (32, 8, 128), "gpt-oss-20b": (64, 8, 64)}
MAX_BYTES = 16 * 1024**3  # of one cache; torch has as much again
SWEEP = [
    Splits(count, tiles) for count, tiles in itertools.product((1, 2, 3, 4, 8, 16), (4, 8, 16))
]


@dataclass(frozen=True, slots=True)
class Case:
    """One batch of equal contexts."""

    model: str
    batch: int
    context: int

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that must be read."""
        _, kv_heads, head_dim = MODELS[self.model]
        return self.batch * self.context * kv_heads * head_dim * 2 * 2


class Pools:
    """One buffer of random numbers; every case is a view of it."""

    def __init__(self) -> None:
        self._buffer = torch.empty(MAX_BYTES // 2, dtype=torch.bfloat16, device="cuda")
        for start in range(0, MAX_BYTES // 2, 1 << 28):
            self._buffer[start : start + (1 << 28)].normal_()

    def paged(self, case: Case, rounds: int) -> Tensor:
        """Return (rounds, blocks, 2, kv_heads, block_tokens, head_dim)."""
        _, kv_heads, head_dim = MODELS[case.model]
        blocks = case.batch * case.context // BLOCK_TOKENS
        shape = (rounds, blocks, 2, kv_heads, BLOCK_TOKENS, head_dim)
        return self._buffer[: math.prod(shape)].view(shape)

    def dense(self, case: Case, rounds: int) -> Tensor:
        """Return (rounds, 2, batch, kv_heads, context, head_dim): what torch attends over."""
        _, kv_heads, head_dim = MODELS[case.model]
        shape = (rounds, 2, case.batch, kv_heads, case.context, head_dim)
        return self._buffer[: math.prod(shape)].view(shape)


def cases() -> Iterator[Case]:
    """Return all cases that fit."""
    for model, context, batch in itertools.product(MODELS, CONTEXTS, BATCHES):
        case = Case(model, batch, context)
        if case.cache_bytes <= MAX_BYTES:
            yield case


def measure(
    library: CudaLibrary, copy_bandwidth: float, *, sweep: bool = False
) -> list[dict[str, Any]]:
    """Return a row for each case; with `sweep` also the fastest way to split it."""
    pools = Pools()
    return [_row(library, pools, case, copy_bandwidth, sweep=sweep) for case in cases()]


def _row(
    library: CudaLibrary, pools: Pools, case: Case, copy_bandwidth: float, *, sweep: bool
) -> dict[str, Any]:
    heads, _, head_dim = MODELS[case.model]
    rounds = min(rounds_for(case.cache_bytes), MAX_BYTES // case.cache_bytes)
    query = torch.randn(case.batch, heads, head_dim, dtype=torch.bfloat16, device="cuda")
    paged, batch = pools.paged(case, rounds), _batch(case)
    scale = head_dim**-0.5

    def run(attend: PagedAttention) -> float:
        return microseconds(lambda i: attend(query, paged[i], batch, Score(scale)), rounds)

    mine = run(PagedAttention(library, query.device))
    theirs = min(_torch(pools.dense(case, rounds), query, case, rounds, way) for way in (0, 1))
    row: dict[str, Any] = {
        "model": case.model,
        "batch": case.batch,
        "context": case.context,
        "microseconds": mine,
        "torch_microseconds": theirs,
        "ratio": theirs / mine,
        "of_copy_bandwidth": case.cache_bytes / (mine * 1e-6) / copy_bandwidth,
    }
    if sweep:
        times = {
            splits: run(PagedAttention(library, query.device, lambda *_, splits=splits: splits))
            for splits in SWEEP
        }
        best = min(times, key=lambda splits: times[splits])
        row |= {"best_us": times[best], "best": f"{best.count}x{best.min_tiles}"}
        row["sweep"] = {f"{s.count}x{s.min_tiles}": round(t, 2) for s, t in times.items()}
    return row


def _batch(case: Case) -> AttentionBatch:
    per_sequence = case.context // BLOCK_TOKENS
    blocks = torch.randperm(case.batch * per_sequence, device="cuda")
    return AttentionBatch(
        query_starts=torch.arange(case.batch + 1, device="cuda"),
        context_lens=torch.full((case.batch,), case.context, device="cuda"),
        block_tables=blocks.view(case.batch, per_sequence),
        max_query_len=1,
        max_context_len=case.context,
        single_sequences=case.batch,
        chunk_context_tokens=0,
    )


def _torch(dense: Tensor, query: Tensor, case: Case, rounds: int, way: int) -> float:
    """Time `scaled_dot_product_attention` over contiguous caches, which nobody has when serving.

    Way 0 gives it all heads and lets it repeat keys; way 1 makes a group's heads its queries, so
    that keys are read once. The faster one counts.
    """
    heads, kv_heads, head_dim = MODELS[case.model]
    if way == 0:
        rows = query.view(case.batch, heads, 1, head_dim)
    else:
        rows = query.view(case.batch, kv_heads, heads // kv_heads, head_dim)

    def call(index: int) -> Tensor:
        keys, values = dense[index]
        return F.scaled_dot_product_attention(rows, keys, values, enable_gqa=way == 0)

    try:
        return microseconds(call, rounds)
    except RuntimeError:  # No memory for repeated keys.
        torch.cuda.empty_cache()
        return math.inf

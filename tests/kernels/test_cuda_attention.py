"""Paged attention on a GPU equals dense attention in float64 over each sequence's own tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from steelyard_kernels.cuda.launch import Splits
from steelyard_kernels.cuda.ops import CudaOps
from steelyard_kernels.interface import AttentionBatch

pytestmark = pytest.mark.gpu

# Of the norm of the result: bf16 has 8 bits, weights and output are rounded to it once.
TOLERANCE = 6e-3

# Query tokens and contexts; those with one query token come first.
BATCHES: dict[str, tuple[list[int], list[int]]] = {
    "one-token": ([1], [1]),
    "tile-borders": ([1] * 6, [15, 16, 17, 63, 64, 65]),
    "one-long": ([1], [5000]),
    "uneven": ([1] * 5, [3, 900, 40, 2049, 1]),
    "many": ([1] * 70, [17 * index % 611 + 1 for index in range(70)]),
    "prefill": ([33, 200], [33, 200]),
    "chunks": ([17, 64], [60, 500]),
    "mixed": ([1, 1, 20, 3, 64], [33, 128, 20, 50, 70]),
}
# heads, kv_heads, head_dim, block_tokens
SHAPES = [(32, 8, 128, 16), (64, 8, 64, 16), (9, 3, 64, 32), (16, 1, 128, 16), (4, 4, 128, 64)]


def on_device(batch: AttentionBatch) -> AttentionBatch:
    return AttentionBatch(
        batch.query_starts.cuda(),
        batch.context_lens.cuda(),
        batch.block_tables.cuda(),
        batch.max_query_len,
        batch.max_context_len,
        batch.single_sequences,
        batch.chunk_context_tokens,
    )


def error(computed: Tensor, expected: Tensor) -> float:
    """Return the distance relative to the size of what is expected; NaN stays NaN."""
    difference = computed.cpu().double() - expected.double()
    return float(difference.norm() / expected.double().norm())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_it_equals_dense_attention(
    cuda_ops: CudaOps,
    a_cache: Callable[..., Any],
    batch: tuple[list[int], list[int]],
    shape: tuple[int, int, int, int],
) -> None:
    """Scattered blocks, splits and shared heads change nothing; NaN behind the end is not read."""
    computed, expected = both(cuda_ops, a_cache, batch, shape)

    assert error(computed, expected) < TOLERANCE


@pytest.mark.parametrize("window", [1, 16, 100, 128])
@pytest.mark.parametrize("batch", ["uneven", "tile-borders", "chunks", "mixed"])
@pytest.mark.parametrize("with_sinks", [False, True], ids=["plain", "sinks"])
def test_windows_and_sinks(
    cuda_ops: CudaOps, a_cache: Callable[..., Any], window: int, batch: str, with_sinks: bool
) -> None:
    """A query sees the last tokens only; a sink takes its share of the weights."""
    sinks = torch.randn(64) * 2 if with_sinks else None

    computed, expected = both(
        cuda_ops, a_cache, BATCHES[batch], (64, 8, 64, 16), window=window, sinks=sinks
    )

    assert error(computed, expected) < TOLERANCE


@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("min_tiles", [1, 4, 16])
def test_any_split_gives_the_same(
    cuda_ops: CudaOps,
    a_cache: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    min_tiles: int,
) -> None:
    """However the context is cut, also twice in a row: the counters are back at zero."""
    monkeypatch.setattr(cuda_ops.attention, "_choose", lambda *_: Splits(count, min_tiles))
    sinks = torch.randn(32)

    for _ in range(2):
        computed, expected = both(
            cuda_ops, a_cache, BATCHES["uneven"], (32, 8, 128, 16), sinks=sinks
        )
        assert error(computed, expected) < TOLERANCE


def test_large_scores_do_not_overflow(cuda_ops: CudaOps, a_cache: Callable[..., Any]) -> None:
    """The softmax is taken relative to the largest score."""
    computed, expected = both(cuda_ops, a_cache, BATCHES["uneven"], (32, 8, 128, 16), size=300.0)

    assert error(computed, expected) < 3 * TOLERANCE


def test_padding_is_zero(cuda_ops: CudaOps) -> None:
    """A row without context reads nothing and gives zeros."""
    kv_layer = torch.full((2, 2, 8, 16, 128), torch.nan, dtype=torch.bfloat16, device="cuda")
    query = torch.randn(3, 32, 128, dtype=torch.bfloat16, device="cuda")
    lengths = torch.zeros(3, dtype=torch.int64, device="cuda")
    tables = torch.zeros((3, 4), dtype=torch.int64, device="cuda")
    batch = AttentionBatch(torch.arange(4, device="cuda"), lengths, tables, 1, 1, 3, 0)

    assert not cuda_ops.paged_attention(query, kv_layer, batch, 1.0).any()


def both(
    ops: CudaOps,
    a_cache: Callable[..., Any],
    batch: tuple[list[int], list[int]],
    shape: tuple[int, int, int, int],
    *,
    window: int = 0,
    sinks: Tensor | None = None,
    size: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return what the kernel computes and what it should."""
    heads, kv_heads, head_dim, block_tokens = shape
    queries, contexts = batch
    torch.manual_seed(len(queries) + sum(contexts))
    cache = a_cache(queries, contexts, kv_heads, head_dim, block_tokens)
    pool = cache.layer.bfloat16()
    query = (torch.randn(cache.tokens, heads, head_dim) * size).bfloat16()
    scale = head_dim**-0.5
    computed = ops.paged_attention(
        query.cuda(),
        # A layer of a pool: its blocks are not contiguous.
        torch.stack((pool, torch.full_like(pool, torch.nan)), 1).cuda()[:, 0],
        on_device(cache.batch),
        scale,
        sinks=None if sinks is None else sinks.cuda(),
        window=window,
    )
    dense = Dense(scale, window, sinks)
    rows = []
    for s, part in enumerate(query.double().split(queries)):
        blocks = pool.double()[cache.batch.block_tables[s]].permute(1, 2, 0, 3, 4)
        keys, values = blocks.flatten(2, 3)[:, :, : contexts[s]].repeat_interleave(
            heads // kv_heads, dim=1
        )
        rows.append(dense(part.transpose(0, 1), keys, values))
    return computed, torch.cat(rows)


@dataclass(frozen=True, slots=True)
class Dense:
    """Attention in float64, (heads, q, d) over (heads, k, d)."""

    scale: float
    window: int
    sinks: Tensor | None

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return (q, heads * d)."""
        heads, count, _ = query.shape
        context = keys.shape[1]
        place = torch.arange(context - count, context)[:, None] - torch.arange(context)
        visible = (place >= 0) & (place < (self.window or context))
        scores = (query @ keys.transpose(1, 2) * self.scale).masked_fill(~visible, -torch.inf)
        if self.sinks is not None:
            extra = self.sinks.double()[:, None, None].expand(heads, count, 1)
            scores = torch.cat((scores, extra), -1)
        weights = scores.softmax(-1)[..., :context]
        return (weights @ values).transpose(0, 1).flatten(1)

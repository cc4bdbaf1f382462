"""Paged attention equals dense attention over each sequence's own tokens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses

from steelyard_kernels.cpu.ops import CpuOps
from steelyard_kernels.interface import Ops
from steelyard_kernels.reference.ops import ReferenceOps

TOLERANCE = 5e-6  # float32, values of size 1

BATCHES: dict[str, tuple[list[int], list[int]]] = {
    "one-token": ([1], [1]),
    "decode": ([1, 1, 1], [40, 7, 16]),
    "prefill": ([33], [33]),
    "chunk": ([17], [60]),
    "mixed": ([1, 20, 1, 3, 64], [33, 20, 128, 50, 70]),
    "verify": ([4, 4], [19, 64]),
}
# heads, kv_heads, head_dim, block_tokens
SHAPES = [(9, 3, 64, 16), (4, 4, 16, 4), (8, 1, 128, 16), (6, 2, 32, 24), (2, 1, 256, 16)]


@pytest.fixture(params=["reference", "cpu"])
def ops(request: pytest.FixtureRequest, cpu: CpuOps) -> Ops:
    chosen: Ops = ReferenceOps() if request.param == "reference" else cpu
    return chosen


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_it_equals_dense_attention(
    ops: Ops,
    a_cache: Callable[..., Any],
    batch: tuple[list[int], list[int]],
    shape: tuple[int, int, int, int],
) -> None:
    """Scattered blocks, causal masks and shared heads change nothing; NaN outside is not read."""
    heads, kv_heads, head_dim, block_tokens = shape
    queries, contexts = batch
    torch.manual_seed(0)
    cache = a_cache(queries, contexts, kv_heads, head_dim, block_tokens)
    query = torch.randn(cache.tokens, heads, head_dim)
    scale = head_dim**-0.5

    computed = ops.paged_attention(query, cache.layer, cache.batch, scale)

    expected = dense(query, cache, queries, contexts, scale)
    assert (computed - expected).abs().max() < TOLERANCE


def dense(
    query: torch.Tensor, cache: Any, queries: list[int], contexts: list[int], scale: float
) -> torch.Tensor:
    """Attend over each sequence's tokens laid out in a row."""
    rows = []
    for s, part in enumerate(query.split(queries)):
        # (blocks, 2, kv_heads, block_tokens, head_dim) -> (2, kv_heads, tokens, head_dim)
        blocks = cache.layer[cache.batch.block_tables[s]].permute(1, 2, 0, 3, 4)
        keys, values = blocks.flatten(2, 3)[:, :, : contexts[s]]
        mask = torch.ones(queries[s], contexts[s], dtype=torch.bool)
        mask = mask.tril(contexts[s] - queries[s])
        out = F.scaled_dot_product_attention(
            part.transpose(0, 1), keys, values, mask, scale=scale, enable_gqa=True
        )
        rows.append(out.transpose(0, 1).flatten(1))
    return torch.cat(rows)


def test_large_scores_do_not_overflow(cpu: CpuOps, a_cache: Callable[..., Any]) -> None:
    """The softmax is taken relative to the largest score."""
    torch.manual_seed(0)
    cache = a_cache([3], [40], 1, 16, 16)
    query = torch.randn(3, 2, 16) * 1000

    computed = cpu.paged_attention(query, cache.layer, cache.batch, 1.0)

    expected = ReferenceOps().paged_attention(query, cache.layer, cache.batch, 1.0)
    assert (computed - expected).abs().max() < 1e-4


def test_a_sequence_does_not_see_the_batch(cpu: CpuOps, a_cache: Callable[..., Any]) -> None:
    """A decoding sequence's result is the same to the last bit beside a prefill."""
    torch.manual_seed(0)
    cache = a_cache([1, 30], [50, 30], 3, 64, 16)
    query = torch.randn(31, 9, 64)
    batch = cache.batch
    alone = type(batch)(
        batch.query_starts[:2], batch.context_lens[:1], batch.block_tables[:1], 1, 50, 1, 0
    )

    together = cpu.paged_attention(query, cache.layer, batch, 0.125)

    assert torch.equal(cpu.paged_attention(query[:1], cache.layer, alone, 0.125), together[:1])

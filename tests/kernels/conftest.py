"""The implementations under test and the cache that attention reads."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from steelyard_kernels.cpu.library import load_library
from steelyard_kernels.cpu.ops import CpuOps
from steelyard_kernels.cuda.library import load_library as load_cuda
from steelyard_kernels.cuda.ops import CudaOps
from steelyard_kernels.interface import AttentionBatch


@dataclass(frozen=True, slots=True)
class Cache:
    """A pool of random blocks and a batch of sequences that own some of them."""

    layer: Tensor
    batch: AttentionBatch
    tokens: int


@pytest.fixture(scope="session")
def cpu() -> CpuOps:
    return CpuOps(load_library())


@pytest.fixture(scope="session")
def a_cache() -> Callable[[list[int], list[int], int, int, int], Cache]:
    return build_cache


def build_cache(
    queries: list[int], contexts: list[int], kv_heads: int, head_dim: int, block_tokens: int
) -> Cache:
    """Return one layer of a three-layer pool; unused blocks and tails hold NaN."""
    blocks = [-(-context // block_tokens) for context in contexts]
    order = torch.randperm(sum(blocks)) + 1
    pool = torch.full((sum(blocks) + 1, 3, 2, kv_heads, block_tokens, head_dim), torch.nan)
    tables = torch.zeros((len(contexts), max(blocks)), dtype=torch.int64)
    used = 0
    for row, (count, context) in enumerate(zip(blocks, contexts, strict=True)):
        tables[row, :count] = order[used : used + count]
        used += count
        for position in range(context):
            block = tables[row, position // block_tokens]
            pool[block, 1, :, :, position % block_tokens] = torch.randn(2, kv_heads, head_dim)
    starts = torch.tensor([0, *queries]).cumsum(0)
    single = queries.count(1)
    batch = AttentionBatch(
        starts,
        torch.tensor(contexts),
        tables,
        max(queries),
        max(contexts),
        single,
        sum(contexts[single:]),
    )
    return Cache(pool[:, 1], batch, sum(queries))


@pytest.fixture(scope="session")
def cuda_ops() -> CudaOps:
    """The CUDA kernels; skips where there is no device."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return CudaOps(load_cuda(), torch.device("cuda"))

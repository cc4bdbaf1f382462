"""The pool is one zeroed allocation, seen as a tensor and as blocks of bytes."""

import mmap

import pytest
import torch

from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.errors import ConfigError
from steelyard_runtime.models.batch import KVGeometry

CPU = torch.device("cpu")
GEOMETRY = KVGeometry(layers=3, kv_heads=2, head_dim=4, block_tokens=8, dtype=torch.float32)


def test_it_holds_what_fits() -> None:
    """A size in bytes becomes a whole number of blocks."""
    pool = KVPool.of_bytes(GEOMETRY, 5 * GEOMETRY.block_bytes + 17, CPU)

    assert pool.tensor.shape == (5, 3, 2, 2, 8, 4)


def test_it_starts_as_zeros_on_a_page() -> None:
    """Blocks that were never written are finite, and RDMA likes pages."""
    pool = KVPool(GEOMETRY, 3, CPU)

    assert pool.tensor.count_nonzero() == 0
    assert pool.base_address() % mmap.PAGESIZE == 0


def test_a_view_is_the_blocks_own_memory() -> None:
    """Bytes written through a view are the tensor's, in that block alone."""
    pool = KVPool(GEOMETRY, 3, CPU)

    pool.view(1)[:] = torch.ones(GEOMETRY.block_bytes // 4).numpy().tobytes()

    assert pool.tensor.flatten(1).mean(1).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("block", [-1, 3])
def test_a_block_outside_is_refused(block: int) -> None:
    """A peer's wrong block id never reaches other memory."""
    with pytest.raises(IndexError, match=f"block {block} of 3"):
        KVPool(GEOMETRY, 3, CPU).view(block)


def test_too_small_a_pool_is_refused() -> None:
    """The error names the flag."""
    with pytest.raises(ConfigError, match="raise --kv-cache-memory-bytes"):
        KVPool.of_bytes(GEOMETRY, 10, CPU)


def test_too_large_a_pool_is_refused() -> None:
    """The error names the flag."""
    with pytest.raises(ConfigError, match="lower --kv-cache-memory-bytes"):
        KVPool.of_bytes(GEOMETRY, 1 << 60, CPU)

"""The block manager's states and the order in which blocks are handed out."""

import pytest

from steelyard_runtime.core.blocks import BlockCounts, BlockManager


def cached(manager: BlockManager, *hashes: bytes) -> list[int]:
    """Fill blocks, publish them under these hashes and let go of them."""
    block_ids = manager.allocate(len(hashes))
    for block_id, block_hash in zip(block_ids, hashes, strict=True):
        manager.publish(block_id, block_hash)
    manager.free(block_ids)
    return block_ids


def test_free_blocks_are_used_before_cached_ones_are_evicted():
    """A cached block survives as long as there is a free one."""
    manager = BlockManager(3)
    cached(manager, b"a")
    manager.allocate(2)
    assert manager.find(b"a") is not None
    manager.allocate(1)
    assert manager.find(b"a") is None
    manager.check()


def test_the_tail_of_a_sequence_is_evicted_before_its_head():
    """Of one sequence's cached blocks the last is lost first."""
    manager = BlockManager(3)
    cached(manager, b"head", b"middle", b"tail")
    kept = []
    for _ in range(3):
        manager.allocate(1)
        kept.append([h for h in (b"head", b"middle", b"tail") if manager.find(h) is not None])
    assert kept == [[b"head", b"middle"], [b"head"], []]
    manager.check()


def test_the_least_recently_used_sequence_is_evicted_first():
    """Sharing a cached block and letting go of it makes it the last to be evicted."""
    manager = BlockManager(2)
    [old] = cached(manager, b"old")
    cached(manager, b"new")
    manager.share([old])
    manager.free([old])
    manager.allocate(1)
    assert manager.find(b"old") == old
    assert manager.find(b"new") is None


def test_a_shared_block_is_kept_until_its_last_holder_lets_go():
    """References are counted."""
    manager = BlockManager(2)
    [block_id] = manager.allocate(1)
    manager.publish(block_id, b"a")
    manager.share([block_id])
    assert not manager.is_exclusive(block_id)
    manager.free([block_id])
    assert manager.counts().referenced == 1
    manager.free([block_id])
    assert manager.counts() == BlockCounts(2, 1, 1, 0, 0, 0)
    manager.check()


def test_a_leased_block_counts_once_and_outlives_its_sequence():
    """Referenced while a sequence holds it, leased afterwards, free at the lease's end."""
    manager = BlockManager(4)
    block_ids = manager.allocate(2)
    manager.lease("r", block_ids)
    assert manager.counts() == BlockCounts(4, 2, 0, 2, 0, 0)
    manager.free(block_ids)
    assert manager.counts() == BlockCounts(4, 2, 0, 0, 2, 0)
    with pytest.raises(ValueError, match="3 blocks wanted, 2 available"):
        manager.allocate(3)
    assert manager.end_lease("r")
    assert manager.counts() == BlockCounts(4, 4, 0, 0, 0, 0)
    manager.check()


def test_two_leases_on_a_block_end_independently():
    """Exports with a common prefix share its blocks."""
    manager = BlockManager(2)
    [block_id] = manager.allocate(1)
    manager.publish(block_id, b"a")
    manager.lease("r", [block_id])
    manager.lease("s", [block_id])
    manager.free([block_id])
    manager.end_lease("r")
    assert manager.counts().leased == 1
    manager.end_lease("s")
    assert manager.counts().cached == 1
    manager.check()


def test_a_request_has_one_lease():
    """A second lease under the same id is refused; ending an unknown one does nothing."""
    manager = BlockManager(2)
    manager.lease("r", manager.allocate(1))
    with pytest.raises(ValueError, match="request r has a lease already"):
        manager.lease("r", manager.allocate(1))
    assert not manager.end_lease("unknown")


def test_quarantined_blocks_are_not_handed_out_until_settled():
    """A block that a late transfer may still write is nobody's."""
    manager = BlockManager(3)
    manager.quarantine("r", manager.allocate(2))
    assert manager.counts() == BlockCounts(3, 1, 0, 0, 0, 2)
    assert manager.num_available == 1
    assert manager.settle("r")
    assert not manager.settle("r")
    assert manager.counts().free == 3
    manager.check()


def test_a_shared_block_cannot_be_quarantined():
    """Quarantine is for blocks that one pull alone writes."""
    manager = BlockManager(1)
    [block_id] = manager.allocate(1)
    manager.share([block_id])
    with pytest.raises(ValueError, match="is shared and cannot be quarantined"):
        manager.quarantine("r", [block_id])


def test_a_second_block_with_the_same_content_stays_private():
    """The first published block of a hash is the one found; the other is freed, not cached."""
    manager = BlockManager(2)
    first, second = manager.allocate(2)
    manager.publish(first, b"a")
    manager.publish(second, b"a")
    assert manager.find(b"a") == first
    assert manager.is_exclusive(second)
    manager.free([second])
    assert manager.counts().free == 1
    manager.check()


def test_forgetting_the_cache_keeps_what_is_in_use():
    """Cached blocks become free; a published block that a sequence holds stays findable."""
    manager = BlockManager(3)
    cached(manager, b"a", b"b")
    [held] = manager.allocate(1)
    manager.publish(held, b"c")
    assert manager.forget_cached() == 2
    assert manager.find(b"a") is None
    assert manager.find(b"c") == held
    assert manager.counts() == BlockCounts(3, 2, 0, 1, 0, 0)
    manager.check()


def test_check_notices_a_block_that_was_freed_twice():
    """The books do not balance after a double free."""
    manager = BlockManager(1)
    block_ids = manager.allocate(1)
    manager.free(block_ids)
    manager.free(block_ids)
    with pytest.raises(AssertionError, match="negative references"):
        manager.check()

"""Who holds each KV block: references of sequences, leases of exports, quarantine, cache, nobody.

Decides which block is handed out and which cached block is evicted. Knows nothing of tokens;
hashes are opaque keys made by `prefix_cache`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Blocks by state; the states are disjoint and add up to `total`.

    A block that a sequence holds is `referenced`, whether or not it is leased as well.
    """

    total: int
    free: int
    cached: int
    referenced: int
    leased: int
    quarantined: int


class BlockManager:
    """A fixed number of KV blocks.

    A block is free, cached (nobody holds it, but its hash is published; evicted least recently
    used first), referenced, leased or quarantined.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack
        self._evictable: dict[int, None] = {}  # cached blocks, the first is evicted first
        self._references = [0] * num_blocks
        self._lease_count = [0] * num_blocks
        self._leases: dict[str, tuple[int, ...]] = {}
        self._quarantine: dict[str, list[int]] = {}
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_available(self) -> int:
        """How many blocks `allocate` can give now, cached ones included."""
        return len(self._free) + len(self._evictable)

    @property
    def num_leases(self) -> int:
        """How many exports are under a lease."""
        return len(self._leases)

    def holds_for(self, request_id: str) -> bool:
        """Whether blocks are leased or quarantined under this request's id."""
        return request_id in self._leases or request_id in self._quarantine

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, each with one reference and no published hash.

        Raises:
            ValueError: fewer than `count` blocks are available.
        """
        if count > self.num_available:
            raise ValueError(f"{count} blocks wanted, {self.num_available} available")
        taken = []
        for _ in range(count):
            if self._free:
                block_id = self._free.pop()
            else:
                block_id = next(iter(self._evictable))
                del self._evictable[block_id]
                del self._block_of[self._hash_of.pop(block_id)]
            self._references[block_id] = 1
            taken.append(block_id)
        return taken

    def share(self, block_ids: Iterable[int]) -> None:
        """Add a reference to each of these blocks, which are cached, referenced or leased."""
        for block_id in block_ids:
            self._evictable.pop(block_id, None)
            self._references[block_id] += 1

    def free(self, block_ids: Sequence[int]) -> None:
        """Drop one reference of each block, given in the order of the sequence's tokens.

        The tail of the sequence is evicted before its head, which more prompts have in common.
        """
        for block_id in reversed(block_ids):
            self._references[block_id] -= 1
            self._retire(block_id)

    def lease(self, request_id: str, block_ids: Iterable[int]) -> None:
        """Keep these blocks for a reader on another worker until `end_lease`.

        Raises:
            ValueError: the request has a lease already.
        """
        if request_id in self._leases:
            raise ValueError(f"request {request_id} has a lease already")
        held = tuple(block_ids)
        self._leases[request_id] = held
        for block_id in held:
            self._lease_count[block_id] += 1

    def leased(self, request_id: str) -> tuple[int, ...]:
        """Return the blocks under this request's lease, in prompt order; empty without one."""
        return self._leases.get(request_id, ())

    def end_lease(self, request_id: str) -> bool:
        """Drop a lease; False where there is none."""
        held = self._leases.pop(request_id, None)
        if held is None:
            return False
        for block_id in reversed(held):
            self._lease_count[block_id] -= 1
            self._retire(block_id)
        return True

    def quarantine(self, request_id: str, block_ids: Sequence[int]) -> None:
        """Take blocks from their only holder until `settle`: a late transfer may write them."""
        for block_id in block_ids:
            if self._references[block_id] != 1 or block_id in self._hash_of:
                raise ValueError(f"block {block_id} is shared and cannot be quarantined")
            self._references[block_id] = 0
        if block_ids:
            self._quarantine.setdefault(request_id, []).extend(block_ids)

    def settle(self, request_id: str) -> bool:
        """Free the quarantined blocks of a pull that is over; False where there are none."""
        held = self._quarantine.pop(request_id, None)
        if held is None:
            return False
        self._free.extend(reversed(held))
        return True

    def publish(self, block_id: int, block_hash: bytes) -> None:
        """Make a full, written block findable; the first block of a hash stays the one found."""
        if block_hash not in self._block_of:
            self._block_of[block_hash] = block_id
            self._hash_of[block_id] = block_hash

    def unpublish(self, block_ids: Iterable[int]) -> None:
        """Make held blocks unfindable; who holds one keeps it."""
        for block_id in block_ids:
            block_hash = self._hash_of.pop(block_id, None)
            if block_hash is not None:
                del self._block_of[block_hash]

    def find(self, block_hash: bytes) -> int | None:
        """Return the block that holds this content."""
        return self._block_of.get(block_hash)

    def is_exclusive(self, block_id: int) -> bool:
        """Whether a single sequence holds the block and nobody else can find or read it."""
        return (
            self._references[block_id] == 1
            and not self._lease_count[block_id]
            and block_id not in self._hash_of
        )

    def forget_cached(self) -> int:
        """Turn all cached blocks into free ones; return how many."""
        forgotten = list(self._evictable)
        for block_id in forgotten:
            del self._block_of[self._hash_of.pop(block_id)]
        self._free.extend(forgotten)
        self._evictable.clear()
        return len(forgotten)

    def counts(self) -> BlockCounts:
        """Count the blocks by state."""
        free, cached = len(self._free), len(self._evictable)
        quarantined = sum(map(len, self._quarantine.values()))
        leased = len({b for held in self._leases.values() for b in held if not self._references[b]})
        referenced = self.num_blocks - free - cached - quarantined - leased
        return BlockCounts(self.num_blocks, free, cached, referenced, leased, quarantined)

    def check(self) -> None:
        """Verify that each block is in exactly one state; for tests, costs a full scan.

        Raises:
            AssertionError: the books do not balance.
        """
        free, evictable = set(self._free), set(self._evictable)
        quarantined = {b for held in self._quarantine.values() for b in held}
        assert len(free) == len(self._free), "a block is free twice"
        assert len(quarantined) == sum(map(len, self._quarantine.values())), "quarantined twice"
        lease_count = [0] * self.num_blocks
        for held in self._leases.values():
            for block_id in held:
                lease_count[block_id] += 1
        assert lease_count == self._lease_count, "the lease counts are wrong"
        assert {h: b for b, h in self._hash_of.items()} == self._block_of, "the index is torn"
        for block_id in range(self.num_blocks):
            held_somehow = self._references[block_id] > 0 or lease_count[block_id] > 0
            states = (
                (block_id in free)
                + (block_id in evictable)
                + (block_id in quarantined)
                + held_somehow
            )
            assert states == 1, f"block {block_id} is in {states} states"
            assert self._references[block_id] >= 0, f"block {block_id} has negative references"
            if block_id in evictable:
                assert block_id in self._hash_of, f"cached block {block_id} cannot be found"
            elif not held_somehow:
                assert block_id not in self._hash_of, f"block {block_id} is found but not kept"

    def _retire(self, block_id: int) -> None:
        if self._references[block_id] or self._lease_count[block_id]:
            return
        if block_id in self._hash_of:
            self._evictable[block_id] = None
        else:
            self._free.append(block_id)

"""Which leading KV blocks of a sequence exist already: a chain of hashes over full blocks.

A block's hash covers all tokens up to its end, the fingerprint of the model and KV layout, and
the client's cache salt, so equal hashes mean interchangeable KV.
"""

import hashlib
import struct

from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.sequence import Sequence

_DOMAIN = b"steelyard.prefix.v1"


class PrefixCache:
    """Finds and publishes the full blocks of sequences."""

    def __init__(
        self, blocks: BlockManager, *, block_size: int, fingerprint: str, enabled: bool
    ) -> None:
        self._blocks = blocks
        self._block_size = block_size
        self._fingerprint = fingerprint.encode()
        self._enabled = enabled
        self._pack_tokens = struct.Struct(f"<{block_size}I").pack

    @property
    def enabled(self) -> bool:
        """Whether anything is ever found."""
        return self._enabled

    def reads(self, sequence: Sequence) -> bool:
        """Whether this sequence may start from cached blocks.

        Prompt log probabilities need the logits of every prompt position, hence a full prefill.
        """
        return self._enabled and not sequence.wants_prompt_logits

    def find(self, sequence: Sequence) -> list[int]:
        """Return the cached blocks at the head of the sequence.

        At least one token is left to compute, so a shared block is never written.
        """
        if not self.reads(sequence):
            return []
        limit = (sequence.num_tokens - 1) // self._block_size
        hashes = self._hashes(sequence, limit)
        found: list[int] = []
        for block_hash in hashes[:limit]:
            block_id = self._blocks.find(block_hash)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def publish(self, sequence: Sequence) -> None:
        """Publish the blocks that lie wholly in the computed, accepted tokens."""
        full = sequence.num_computed // self._block_size
        if not self._enabled or full <= sequence.num_published:
            return
        hashes = self._hashes(sequence, full)
        for index in range(sequence.num_published, full):
            self._blocks.publish(sequence.block_ids[index], hashes[index])
        sequence.num_published = full

    def _hashes(self, sequence: Sequence, count: int) -> list[bytes]:
        """Extend the sequence's chain to at least `count` blocks and return it."""
        hashes = sequence.block_hashes
        if len(hashes) >= count:
            return hashes
        size = self._block_size
        parent = hashes[-1] if hashes else self._root(sequence.cache_salt)
        for index in range(len(hashes), count):
            tokens = self._pack_tokens(*sequence.tokens[index * size : (index + 1) * size])
            parent = hashlib.sha256(parent + tokens).digest()
            hashes.append(parent)
        return hashes

    def _root(self, cache_salt: str) -> bytes:
        # Lengths go in front, so that no salt can imitate another fingerprint.
        digest = hashlib.sha256(_DOMAIN)
        for part in (self._fingerprint, cache_salt.encode()):
            digest.update(struct.pack("<Q", len(part)))
            digest.update(part)
        return digest.digest()

"""What the prefix cache hashes, publishes and finds."""

import hashlib
import struct

import pytest

from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.prefix_cache import PrefixCache
from steelyard_runtime.core.sequence import Sequence

PROMPT = list(range(100, 113))  # three full blocks of four, and one token


def prompt_sequence(tokens: list[int], **fields: object) -> Sequence:
    return Sequence("r", list(tokens), len(tokens), SamplingParams(max_tokens=1), **fields)


def cache_with(tokens: list[int], num_computed: int, fingerprint: str = "m", salt: str = ""):
    """Return a cache in which `num_computed` of the tokens were computed and published."""
    blocks = BlockManager(32)
    cache = PrefixCache(blocks, block_size=4, fingerprint=fingerprint, enabled=True)
    sequence = prompt_sequence(tokens, cache_salt=salt)
    sequence.block_ids = blocks.allocate(-(-len(tokens) // 4))
    sequence.num_computed = num_computed
    cache.publish(sequence)
    return cache, sequence


def test_the_chain_is_sha256_over_parent_and_little_endian_tokens():
    """The hash is the documented one, so it is the same in every process and on every machine."""
    _, sequence = cache_with(PROMPT, 8, fingerprint="model", salt="pepper")
    parent = hashlib.sha256(
        b"steelyard.prefix.v1" + struct.pack("<Q", 5) + b"model" + struct.pack("<Q", 6) + b"pepper"
    ).digest()
    expected = []
    for start in (0, 4):
        parent = hashlib.sha256(parent + struct.pack("<4I", *PROMPT[start : start + 4])).digest()
        expected.append(parent)
    assert sequence.block_hashes == expected


@pytest.mark.parametrize(
    ("tokens", "salt", "found"),
    [
        (PROMPT, "", 3),
        (PROMPT[:12], "", 2),  # one token is left to compute
        (PROMPT[:11], "", 2),
        (PROMPT[:4], "", 0),
        ([*PROMPT[:7], 9, *PROMPT[8:]], "", 1),
        ([9, *PROMPT[1:]], "", 0),
        (PROMPT, "salt", 0),
        (PROMPT + PROMPT, "", 3),
    ],
)
def test_leading_blocks_with_equal_tokens_and_salt_are_found(tokens, salt, found):
    """A lookup gives the longest run of cached blocks that leaves a token to compute."""
    cache, owner = cache_with(PROMPT, 13)
    sequence = prompt_sequence(tokens, cache_salt=salt)
    assert cache.find(sequence) == owner.block_ids[:found]


@pytest.mark.parametrize(("computed", "published"), [(0, 0), (3, 0), (4, 1), (11, 2), (13, 3)])
def test_only_full_computed_blocks_are_published(computed, published):
    """A block is findable once all its positions are computed, not before."""
    cache, owner = cache_with(PROMPT, computed)
    assert owner.num_published == published
    assert len(cache.find(prompt_sequence(PROMPT))) == published


def test_the_hash_chain_grows_with_the_output():
    """Blocks with generated tokens are published as they fill."""
    cache, owner = cache_with(PROMPT, 13)
    owner.tokens += [1, 2, 3, 4]
    owner.num_computed = 16
    cache.publish(owner)
    assert len(cache.find(prompt_sequence([*PROMPT, 1, 2, 3, 5]))) == 4


def test_prompt_log_probabilities_bypass_the_cache():
    """A sequence that owes prompt log probabilities finds nothing until it has output."""
    cache, _ = cache_with(PROMPT, 13)
    sequence = prompt_sequence(PROMPT)
    sequence.params = SamplingParams(max_tokens=2, prompt_logprobs=0)
    assert cache.find(sequence) == []
    sequence.tokens.append(1)
    assert len(cache.find(sequence)) == 3


def test_a_disabled_cache_neither_publishes_nor_finds():
    """With prefix caching off every prompt is computed."""
    blocks = BlockManager(4)
    cache = PrefixCache(blocks, block_size=4, fingerprint="m", enabled=False)
    sequence = prompt_sequence(PROMPT)
    sequence.block_ids = blocks.allocate(4)
    sequence.num_computed = 13
    cache.publish(sequence)
    assert cache.find(prompt_sequence(PROMPT)) == []
    blocks.free(sequence.block_ids)
    assert blocks.counts().cached == 0

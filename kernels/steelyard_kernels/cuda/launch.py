"""Launch choices: pure functions of sizes, with the reason of each number."""

from dataclasses import dataclass

# The kernel's constants (csrc/cuda/decode_tile.cuh). Splits are a cluster: 16 is the largest.
MAX_SPLITS = 16
TILE_TOKENS = 16
MAX_GROUP = 16
HEAD_DIMS = (64, 128)

# How many blocks of clusters a multiprocessor gets. It would hold more (of 227 KiB of shared memory
# one takes 73 at a head dimension of 128, 37 at 64), but clusters of more wait for each other:
# 8 sequences of 4,096 tokens took 52 us in two splits and 65 us in four.
CLUSTERED_BLOCKS = {64: 2, 128: 1}

# The fewest tiles of 16 tokens that a split is worth, two for each warp: with one, 128 tokens take
# 6.0 us instead of 5.1.
MIN_TILES = 8


@dataclass(frozen=True, slots=True)
class Splits:
    """How a context is cut: at most `count` parts of at least `min_tiles` tiles of 16 tokens."""

    count: int
    min_tiles: int


def decode_splits(sequences: int, kv_heads: int, head_dim: int, multiprocessors: int) -> Splits:
    """Return how decode attention splits every context.

    Lengths are not known at launch (a CUDA graph is recorded once), so the kernel cuts each
    context by itself within these bounds.

    Args:
        sequences: rows of the batch.
        kv_heads: key-value heads.
        head_dim: 64 or 128.
        multiprocessors: of the device.
    """
    blocks = multiprocessors * CLUSTERED_BLOCKS[head_dim]
    return Splits(max(1, min(MAX_SPLITS, blocks // (sequences * kv_heads))), MIN_TILES)


@dataclass(frozen=True, slots=True)
class MoeLaunch:
    """How the grouped product of a mixture runs.

    `tile` tokens of an expert go through its weights together; 0: weights are unpacked and a
    library multiplies. `split`: four warps share a row's columns.
    """

    tile: int
    split: bool
    max_items: int  # the longest work list


# Above so many tokens the tensor cores are the limit, and unpacking for a library's product, which
# has the faster instructions, costs less than it saves.
LIBRARY_TOKENS = 2048


def moe_launch(tokens: int, experts: int, top: int) -> MoeLaunch:
    """Return how to run a step of `tokens` tokens, whichever experts they choose.

    Args:
        tokens: of the step.
        experts: of the mixture.
        top: experts of a token.
    """
    if tokens > LIBRARY_TOKENS:
        return MoeLaunch(0, split=False, max_items=experts)
    each = tokens * top / experts
    tile = next(tile for tile in (8, 16, 32, 64) if each <= tile * 0.75 or tile == 64)
    assignments = tokens * top
    # Every expert in use has one item that is not full; the others are.
    longest = min(experts, assignments) + assignments // tile
    # Blocks with eight tokens are small: four warps share the columns, so that there are more.
    return MoeLaunch(tile, split=tile == 8, max_items=longest)

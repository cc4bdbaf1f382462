"""MXFP4 weights in the order in which the tensor cores take them (csrc/cuda/mxfp4.cuh)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard_kernels.interface import Mxfp4

TILE_ROWS, TILE_COLUMNS = 16, 64
# Where the bits (sign, exponent high, exponent low, mantissa) of a pair's first value go in a word;
# those of the second are 16 higher. By (row half, column half) of the pair.
BITS = {
    (0, 0): (15, 8, 7, 6),
    (1, 0): (12, 5, 4, 3),
    (0, 1): (9, 2, 1, 0),
    (1, 1): (14, 11, 10, 13),
}
# A scale byte is the exponent field of 2^(e8m0 - 127 + 126) in bfloat16.
SCALE_SHIFT, LARGEST_SCALE = 126, 128


@dataclass(frozen=True, slots=True)
class PackedMxfp4:
    """E matrices of `rows` x `columns` in tiles."""

    words: Tensor  # (E, rows / 16, columns / 64, 32, 4) int32
    scales: Tensor  # (E, rows / 16, columns / 64, 8, 2, 2) uint8
    rows: int
    columns: int

    @property
    def num_bytes(self) -> int:
        """Bytes of one matrix."""
        return (self.words.nbytes + self.scales.nbytes) // len(self.words)


def pack(weight: Mxfp4, order: Tensor | None = None) -> PackedMxfp4:
    """Return the weights in tiles, on their device.

    Args:
        weight: as the checkpoint has it.
        order: (rows,) int64, which row stands at each place; None: as they are.

    Raises:
        ValueError: sizes are no multiples of a tile's, or an exponent is beyond bfloat16.
    """
    experts, rows, groups, _ = weight.blocks.shape
    columns = groups * 32
    if rows % TILE_ROWS or columns % TILE_COLUMNS:
        raise ValueError(
            f"MXFP4 weights must have multiples of {TILE_ROWS} rows and {TILE_COLUMNS} columns, "
            f"got {rows} x {columns}"
        )
    if int(weight.scales.max()) > LARGEST_SCALE:
        raise ValueError(
            f"MXFP4 exponents must be at most {LARGEST_SCALE} (a factor of 2), "
            f"got {int(weight.scales.max())}"
        )
    place = torch.arange(rows, device=weight.blocks.device) if order is None else order
    # One expert at a time: the bits are spread over 64-bit numbers.
    words = torch.stack([_words(blocks[place]) for blocks in weight.blocks])
    scales = (weight.scales[:, place] + SCALE_SHIFT).view(
        experts, rows // 16, 2, 8, columns // 64, 2
    )
    return PackedMxfp4(words, scales.permute(0, 1, 4, 3, 5, 2).contiguous(), rows, columns)


def gated_order(rows: int, device: torch.device) -> Tensor:
    """Return the order of rows that puts eight gates and their ups into a tile."""
    outputs = torch.arange(rows // 2, device=device).view(-1, 1, 8)
    return torch.cat((2 * outputs, 2 * outputs + 1), dim=1).flatten()


def _words(blocks: Tensor) -> Tensor:
    """Return (rows / 16, columns / 64, 32, 4) int32 of one matrix (rows, columns / 32, 16)."""
    rows = len(blocks)
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).view(rows // 16, 2, 8, -1, 4, 4, 2, 2)
    # (row tile, row half, row, column tile, lane of the row, product, column half, value)
    words = torch.zeros_like(codes[:, 0, ..., 0, 0], dtype=torch.int64)
    for (row_half, column_half), places in BITS.items():
        for value in range(2):
            code = codes[:, row_half, ..., column_half, value].to(torch.int64)
            for bit, place in zip((3, 2, 1, 0), places, strict=True):
                words |= (code >> bit & 1) << (place + 16 * value)
    signed = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    # (row tile, row, column tile, lane of the row, product) -> lanes of a tile together
    return signed.permute(0, 2, 1, 3, 4).reshape(rows // 16, -1, 32, 4)

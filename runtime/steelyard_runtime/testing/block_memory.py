"""A KV pool without a model: plain bytes with a pattern that tells blocks apart."""

import ctypes
import mmap

import numpy


class PlainBlockMemory:
    """Implements `transfer.interface.BlockMemory` over anonymous memory."""

    def __init__(self, num_blocks: int, block_bytes: int) -> None:
        self.num_blocks = num_blocks
        self.block_bytes = block_bytes
        self._map = mmap.mmap(-1, num_blocks * block_bytes)
        self._view = memoryview(self._map)

    def view(self, block_id: int) -> memoryview:
        """Return the block's bytes, writable and without a copy."""
        start = block_id * self.block_bytes
        return self._view[start : start + self.block_bytes]

    def base_address(self) -> int:
        """Return the address of block 0."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def fill(self, seed: int) -> None:
        """Fill the pool with bytes that follow from `seed`."""
        self._view[:] = numpy.random.default_rng(seed).bytes(len(self._view))

    def snapshot(self) -> list[bytes]:
        """Return a copy of every block."""
        return [bytes(self.view(block_id)) for block_id in range(self.num_blocks)]

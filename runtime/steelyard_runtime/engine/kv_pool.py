"""The KV pool: one allocation per KV group, seen as a tensor and as bytes.

Which block belongs to whom is decided by `core/`'s block manager.
"""

import contextlib
import mmap

import torch
from torch import Tensor

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.models.batch import KVGeometry


class KVPool:
    """The pool of one KV group; implements `transfer.interface.BlockMemory`.

    `tensor` is (blocks, layers, 2, kv_heads, block_tokens, head_dim), zero at the start, so that
    whatever is read before it was written is finite.
    """

    def __init__(self, geometry: KVGeometry, num_blocks: int, device: torch.device) -> None:
        """Allocate the pool.

        Raises:
            ConfigError: there is no room for one block, or not enough memory.
        """
        if num_blocks < 1:
            raise ConfigError(
                f"the KV cache must hold at least one block of {geometry.block_bytes} bytes; "
                "raise --kv-cache-memory-bytes"
            )
        self.geometry = geometry
        self.num_blocks = num_blocks
        self.block_bytes = geometry.block_bytes
        total_bytes = num_blocks * self.block_bytes
        shape = (
            num_blocks,
            geometry.layers,
            2,
            geometry.kv_heads,
            geometry.block_tokens,
            geometry.head_dim,
        )
        self._bytes: memoryview | None = None
        try:
            if device.type == "cpu":
                # Anonymous pages are zero, page-aligned and take memory only once written.
                self._map = mmap.mmap(-1, total_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                if hasattr(mmap, "MADV_HUGEPAGE"):
                    # Blocks are read in any order: 7 % of a step of 16 sequences is page walks.
                    with contextlib.suppress(OSError):
                        self._map.madvise(mmap.MADV_HUGEPAGE)
                self._bytes = memoryview(self._map)
                flat = torch.frombuffer(self._map, dtype=geometry.dtype)
            else:
                flat = torch.zeros(
                    total_bytes // geometry.dtype.itemsize, dtype=geometry.dtype, device=device
                )
        except (OSError, RuntimeError, OverflowError) as error:
            raise ConfigError(
                f"the KV cache of {total_bytes} bytes does not fit into memory ({error}); "
                "lower --kv-cache-memory-bytes"
            ) from None
        self.tensor: Tensor = flat.view(shape)

    @classmethod
    def of_bytes(cls, geometry: KVGeometry, limit_bytes: int, device: torch.device) -> "KVPool":
        """Allocate as many blocks as fit into `limit_bytes`."""
        return cls(geometry, limit_bytes // geometry.block_bytes, device)

    def view(self, block_id: int) -> memoryview:
        """Return the block's bytes, writable and without a copy (a CPU pool).

        Raises:
            IndexError: there is no such block.
            TypeError: the pool is in a device's memory.
        """
        if not 0 <= block_id < self.num_blocks:
            raise IndexError(f"block {block_id} of {self.num_blocks}")
        if self._bytes is None:
            raise TypeError("a pool in a device's memory cannot be seen as bytes")
        return self._bytes[block_id * self.block_bytes : (block_id + 1) * self.block_bytes]

    def base_address(self) -> int:
        """Return the address of block 0; block i starts at base + i * block_bytes."""
        return self.tensor.data_ptr()

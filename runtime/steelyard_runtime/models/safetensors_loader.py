"""Weights of a Hugging Face directory."""

import mmap
from pathlib import Path

import torch
from torch import Tensor

from steelyard_runtime.checkpoint_files.model_config import config_from_directory
from steelyard_runtime.checkpoint_files.reading import shown
from steelyard_runtime.checkpoint_files.safetensors_header import (
    DTYPE_BYTES,
    SafetensorsEntry,
    read_safetensors_headers,
)
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.models.checkpoint import require_shape

_TORCH_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
}


class SafetensorsCheckpoint:
    """See `Checkpoint`."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.config = config_from_directory(directory)
        self.entries = read_safetensors_headers(directory)
        self._maps = {entry.path: _map(entry.path) for entry in self.entries.values()}

    def has(self, name: str) -> bool:
        """See `Checkpoint`."""
        return name in self.entries

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """See `Checkpoint`."""
        self._entry(name, shape)

    def read_into(self, name: str, destination: Tensor) -> None:
        """See `Checkpoint`."""
        destination.copy_(self._tensor(self._entry(name, tuple(destination.shape))))

    def _entry(self, name: str, shape: tuple[int, ...]) -> SafetensorsEntry:
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(
                f"{self.path}: tensor '{name}' is missing; "
                f"the files hold {len(self.entries)} tensors"
            )
        require_shape(entry.path, name, entry.shape, shape)
        return entry

    def rope_factors(self) -> Tensor | None:
        """See `Checkpoint`; config.json says it all."""
        return None

    def _tensor(self, entry: SafetensorsEntry) -> Tensor:
        dtype = _TORCH_DTYPES.get(entry.dtype)
        if dtype is None:
            raise CheckpointError(
                f"{entry.path}: tensor '{entry.name}' has the type '{shown(entry.dtype)}'; "
                f"must be one of: {', '.join(DTYPE_BYTES)}"
            )
        count = entry.num_bytes // dtype.itemsize
        flat = torch.frombuffer(
            self._maps[entry.path], dtype=dtype, count=count, offset=entry.offset
        )
        return flat.view(entry.shape)


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        # A private writable map: torch warns about read-only memory.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

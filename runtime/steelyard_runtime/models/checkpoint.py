"""A checkpoint as a model sees it: a configuration and named tensors, whatever the file format."""

from pathlib import Path
from typing import Protocol

from torch import Tensor

from steelyard_runtime.checkpoint_files.model_config import ModelConfig, is_gguf
from steelyard_runtime.errors import CheckpointError


class Checkpoint(Protocol):
    """Weights under Hugging Face's names and in Hugging Face's layout."""

    path: Path
    config: ModelConfig

    def has(self, name: str) -> bool:
        """Return whether there is a tensor of this name."""
        ...

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Hold a tensor to a shape before anything is allocated for it.

        Raises:
            CheckpointError: the tensor is missing, or its shape is another.
        """
        ...

    def read_into(self, name: str, destination: Tensor) -> None:
        """Write the tensor into `destination`, converted to its dtype.

        Raises:
            CheckpointError: the tensor is missing, or its shape is not the destination's.
        """
        ...

    def rope_factors(self) -> Tensor | None:
        """Return what divides RoPE's frequencies, (head_dim / 2,), where the file holds that."""
        ...


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a Hugging Face directory; reads headers only.

    Raises:
        CheckpointError: missing, damaged or unsupported.
    """
    if path.is_dir():
        from steelyard_runtime.models.safetensors_loader import SafetensorsCheckpoint

        return SafetensorsCheckpoint(path)
    if path.suffix == ".gguf" or is_gguf(path):
        from steelyard_runtime.models.gguf_loader import GGUFCheckpoint

        return GGUFCheckpoint(path)
    if not path.exists():
        raise CheckpointError(f"there is no file or directory at {path}")
    raise CheckpointError(
        f"{path} is not a checkpoint; it must be a GGUF file or a Hugging Face directory"
    )


def require_shape(path: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise CheckpointError unless the shapes are equal."""
    if found != wanted:
        raise CheckpointError(
            f"{path}: tensor '{name}' has the shape {list(found)}; "
            f"the configuration asks for {list(wanted)}"
        )

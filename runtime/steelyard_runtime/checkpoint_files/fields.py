"""Typed access to the metadata of checkpoints."""

from collections.abc import Mapping
from typing import Any

from steelyard_runtime.errors import CheckpointError


class Fields:
    """Typed access to a mapping; errors name the file and the field."""

    def __init__(self, where: str, metadata: Mapping[str, Any]) -> None:
        self.where = where
        self.metadata = metadata

    def text(self, key: str) -> str:
        """Return a string."""
        value = self.metadata.get(key)
        if not isinstance(value, str):
            raise CheckpointError(f"{self.where}: '{key}' must be a string, got {value!r}")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        """Return an integer above 0."""
        value = self.metadata.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{self.where}: '{key}' must be a positive number, got {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number above 0."""
        value = self.metadata.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise CheckpointError(f"{self.where}: '{key}' must be a positive number, got {value!r}")
        return float(value)

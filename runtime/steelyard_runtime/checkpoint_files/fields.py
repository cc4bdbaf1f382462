"""Typed access to the metadata of checkpoints."""

import math
from collections.abc import Mapping
from typing import Any

from steelyard_runtime.checkpoint_files.reading import shown
from steelyard_runtime.errors import CheckpointError

# Of sizes and counts: far beyond any model, and products of two fit into 64 bits.
LARGEST = 2**24
SMALLEST_NUMBER, LARGEST_NUMBER = 1e-30, 1e30  # float32 holds them and their squares' roots


class Fields:
    """Typed access to a mapping; errors name the file and the field."""

    def __init__(self, where: str, metadata: Mapping[str, Any]) -> None:
        self.where = where
        self.metadata = metadata

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self.metadata.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def positive(self, key: str, default: int | None = None, *, largest: int = LARGEST) -> int:
        """Return an integer above 0."""
        value = self.metadata.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._wrong(key, "a positive number", value)
        if value > largest:
            raise self._wrong(key, f"at most {largest}", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number above 0 that float32 can hold."""
        value = self.metadata.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise self._wrong(key, "a positive number", value)
        if not SMALLEST_NUMBER <= value <= LARGEST_NUMBER or not math.isfinite(value):
            raise self._wrong(key, f"from {SMALLEST_NUMBER} to {LARGEST_NUMBER}", value)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.metadata.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return an object; an empty one where there is none."""
        value = self.metadata.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object", value)
        return value

    def token_ids(self, key: str, vocab_size: int) -> frozenset[int]:
        """Return one id or a list of them; none where there is nothing."""
        value = self.metadata.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for token_id in ids:
            if not isinstance(token_id, int) or isinstance(token_id, bool):
                raise self._wrong(key, "a token id or a list of them", value)
            if not 0 <= token_id < vocab_size:
                raise self._wrong(key, f"below the vocabulary's {vocab_size}", token_id)
        return frozenset(ids)

    def _wrong(self, key: str, allowed: str, value: Any) -> CheckpointError:
        given = f"'{shown(value)}'" if isinstance(value, str) else shown(value)
        return CheckpointError(f"{self.where}: '{shown(key)}' must be {allowed}, got {given}")

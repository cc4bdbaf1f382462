"""API keys in a file that changes while the worker runs: a mounted Secret, rotated.

The file is read again about once a second, when a request asks. A file that cannot be read or has
no key keeps the last keys: an open port is never what a mistake leads to.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from steelyard_runtime.errors import ConfigError

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
MAX_FILE_BYTES = 1024 * 1024


def keys_of(text: str) -> tuple[str, ...]:
    """Return the keys of a text, one a line."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


class KeyFile:
    """The keys of a file, as they are now."""

    def __init__(
        self, path: Path, keys: tuple[str, ...], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with `keys`, which were read from `path` at the start."""
        self._path = path
        self._keys = keys
        self._clock = clock
        self._read_at = clock()
        self._is_good = True

    def keys(self) -> tuple[str, ...]:
        """Return the keys in force."""
        now = self._clock()
        if now - self._read_at >= CHECK_SECONDS:
            self._read_at = now
            self._read()
        return self._keys

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ConfigError(f"it has more than {MAX_FILE_BYTES} bytes")
            keys = keys_of(content.decode())
            if not keys:
                raise ConfigError("it has no key")
        except (OSError, UnicodeDecodeError, ConfigError) as error:
            if self._is_good:
                log.warning(
                    "the API keys stay as they were: the file cannot be used",
                    extra={"fields": {"path": str(self._path), "error": str(error)}},
                )
            self._is_good = False
            return
        self._is_good = True
        if keys != self._keys:
            self._keys = keys
            log.info("API keys read again", extra={"fields": {"keys": len(keys)}})

"""Faults on demand, for tests only: cut, stall or corrupt what a decode worker receives.

Nothing of this exists in a worker unless `STEELYARD_TEST_FAULTS` is set in its environment. The
value is `cut`, `stall` or `corrupt`, or `@PATH` of a file that holds one of these (or nothing) and
is read again for each pull, so that a test can switch faults while the worker runs.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from steelyard_runtime.errors import ConfigError, TransferError

VARIABLE = "STEELYARD_TEST_FAULTS"
KINDS = ("cut", "stall", "corrupt")


class TransferFaults:
    """What goes wrong with the pulls of one worker."""

    def __init__(self, kind: str = "", path: Path | None = None) -> None:
        self.kind = kind
        self._path = path

    def current(self) -> str:
        """Return the fault in force, or the empty string."""
        if self._path is None:
            return self.kind
        try:
            return self._path.read_text().strip()
        except OSError:
            return ""

    async def before_block(self, position: int) -> None:
        """Called when `position` blocks of a pull are in; acts when half a transfer has begun."""
        if position != 1:
            return
        kind = self.current()
        if kind == "cut":
            raise TransferError("transfer", "cut midway by a test")
        if kind == "stall":
            await asyncio.Event().wait()

    def landed(self, view: memoryview) -> None:
        """Called with a received block before it is verified."""
        if self.current() == "corrupt":
            view[0] ^= 0xFF


def faults_from(environment: Mapping[str, str]) -> TransferFaults | None:
    """Return the faults that the environment asks for.

    Raises:
        ConfigError: it asks for an unknown one.
    """
    value = environment.get(VARIABLE, "")
    if not value:
        return None
    if value.startswith("@"):
        return TransferFaults(path=Path(value[1:]))
    if value not in KINDS:
        allowed = ", ".join(KINDS)
        raise ConfigError(f"{VARIABLE} must be one of {allowed} or @PATH, got '{value}'")
    return TransferFaults(kind=value)

"""Faults on demand, for tests only: hold, cut, stall or corrupt KV blocks under way.

Nothing of this exists in a worker unless `STEELYARD_TEST_FAULTS` is set in its environment. The
value is one of `KINDS`, or `@PATH` of a file that holds one of these (or nothing) and is read again
for each pull, so that a test can switch faults while the worker runs. `hold` stops a pull before
the peer is asked, `stall` after its first block, on a decode worker before it reads on and on a
prefill worker before it sends on over TCP; they go on when the file says so, and while they wait
there is a file PATH.waiting.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from steelyard_runtime.errors import ConfigError, TransferError

VARIABLE = "STEELYARD_TEST_FAULTS"
KINDS = ("hold", "cut", "stall", "corrupt")
LOOK_AGAIN_SECONDS = 0.01


class TransferFaults:
    """What goes wrong with the transfers of one worker."""

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

    async def before_asking(self) -> None:
        """Called before anything is asked of the peer."""
        await self._wait_while("hold")

    async def before_block(self, position: int) -> None:
        """Called when `position` blocks of a pull are in; acts when half a transfer has begun."""
        if position != 1:
            return
        if self.current() == "cut":
            raise TransferError("transfer", "cut midway by a test")
        await self._wait_while("stall")

    async def before_sending(self, position: int) -> None:
        """Called when `position` blocks of a read over TCP are sent."""
        if position == 1:
            await self._wait_while("stall")

    async def _wait_while(self, kind: str) -> None:
        if self._path is not None and self.current() == kind:
            waiting_file(self._path).touch()
        while self.current() == kind:  # noqa: ASYNC110  # a file tells nobody that it changed
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    def landed(self, view: memoryview) -> None:
        """Called with a received block before it is verified."""
        if self.current() == "corrupt":
            view[:] = bytes(view)[::-1]  # bad enough to change an answer if nobody noticed


def waiting_file(path: Path) -> Path:
    """Return the file that is there while a pull waits; `path` names the fault."""
    return path.with_name(path.name + ".waiting")


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

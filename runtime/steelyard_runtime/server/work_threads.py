"""Threads for work that would hold up the event loop, and with it all streams.

Small pieces of work never wait behind large ones: each kind has threads of its own, and the large
ones run one at a time, so that what holds Python's lock is never several at once.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# Reading so much takes about a millisecond, which is less than a thread hop is worth.
INLINE_BYTES = 4096
LARGE_BYTES = 256 * 1024
SMALL_THREADS = 2

Result = TypeVar("Result")


class WorkThreads:
    """Runs work by the size of its input."""

    def __init__(self) -> None:
        self._small = ThreadPoolExecutor(SMALL_THREADS, "small-work")
        self._large = ThreadPoolExecutor(1, "large-work")

    async def run(
        self, size: int, work: Callable[[], Result], inline_up_to: int = INLINE_BYTES
    ) -> Result:
        """Return what `work` returns; `size` is that of its input, in bytes or characters."""
        if size <= inline_up_to:
            return work()
        threads = self._large if size > LARGE_BYTES else self._small
        return await asyncio.get_running_loop().run_in_executor(threads, work)

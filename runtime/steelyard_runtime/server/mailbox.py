"""The outputs of one request on their way from the socket reader to the request's task.

An `asyncio.Queue` a request would do; this one hands over everything that is there in one wake-up
and knows the end of the engine, which keeps the cost of a token low under load.
"""

import asyncio
from collections.abc import Callable

from steelyard_runtime.errors import EngineDeadError
from steelyard_runtime.ipc.messages import Output


class Mailbox:
    """Outputs of all sequences of one request; one reader."""

    __slots__ = ("_dead", "_items", "_loop", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: list[Output] = []
        self._waiter: asyncio.Future[None] | None = None
        self._dead = False

    def put(self, output: Output) -> None:
        """Add an output and wake the reader."""
        self._items.append(output)
        self._wake()

    def fail(self) -> None:
        """Tell the reader that the engine is gone, after what it still has to read."""
        self._dead = True
        self._wake()

    async def take(self, timeout_seconds: float | None = None) -> list[Output]:
        """Return all outputs, at least one; an empty list after `timeout_seconds` of silence.

        Raises:
            EngineDeadError: the engine is gone and nothing is left to read.
        """
        if not self._items:
            if self._dead:
                raise EngineDeadError("the engine process is gone")
            waiter = self._waiter = self._loop.create_future()
            timer = None
            if timeout_seconds is not None:
                timer = self._loop.call_later(timeout_seconds, _resolver(waiter))
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
            if not self._items and self._dead:
                raise EngineDeadError("the engine process is gone")
        items, self._items = self._items, []
        return items

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _resolver(future: asyncio.Future[None]) -> Callable[[], None]:
    def resolve() -> None:
        if not future.done():
            future.set_result(None)

    return resolve

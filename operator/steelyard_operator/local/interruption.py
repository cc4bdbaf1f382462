"""Ctrl-C and its relatives: the first one ends gracefully, the second one at once."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):  # noqa: N818 - what happened, not what went wrong
    """A signal asked this process to end."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What shells expect of a process that a signal ended."""
        return 128 + self.number


class Interruptions:
    """Counts signals; `unless_interrupted` turns the next one into an exception."""

    def __init__(self) -> None:
        """Listen from now on; call inside the event loop."""
        self._arrived: asyncio.Queue[signal.Signals] = asyncio.Queue()
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._arrived.put_nowait, number)

    async def unless_interrupted(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`, or cancel it when a signal arrives.

        Raises:
            Interrupted: a signal arrived first.
        """
        task = asyncio.ensure_future(work)
        arrival = asyncio.ensure_future(self._arrived.get())
        try:
            await asyncio.wait((task, arrival), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Interrupted(arrival.result())
        finally:
            await _cancelled(task)
            await _cancelled(arrival)


async def _cancelled(task: "asyncio.Future[Any]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))

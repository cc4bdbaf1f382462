"""One timer for all requests: keep-alive comments to silent clients, probes of silent workers.

A timer per request would have to be moved at each event; this looks at time stamps instead.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

from steelyard_runtime.router.client_stream import ClientStream
from steelyard_runtime.router.pool import Worker


class Wait:
    """One request's wait for one worker; entered around everything that reads from it.

    When the worker cannot be reached, or answers no probe for as long as the sweeper's patience,
    the block ends with `TimeoutError`, and so it does after `limit_seconds`.
    """

    __slots__ = (
        "_clock",
        "_scope",
        "_sweeper",
        "began_seconds",
        "last_read_seconds",
        "paused",
        "worker",
    )

    def __init__(self, sweeper: "Sweeper", worker: Worker, limit_seconds: float | None) -> None:
        self.worker = worker
        self.paused = False  # the client is too slow: the silence is not the worker's
        self._sweeper = sweeper
        self._clock = asyncio.get_running_loop().time
        self._scope = asyncio.timeout(limit_seconds)
        self.began_seconds = self.last_read_seconds = self._clock()

    def heard(self) -> None:
        """Note that the worker sent something."""
        self.last_read_seconds = self._clock()

    def abort(self) -> None:
        """End the wait."""
        self._scope.reschedule(self._clock())

    async def __aenter__(self) -> "Wait":
        self._sweeper.waits.add(self)
        await self._scope.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._sweeper.waits.discard(self)
        await self._scope.__aexit__(kind, error, trace)


class Sweeper:
    """Looks at all open streams and waits a few times in each interval."""

    def __init__(
        self,
        *,
        keepalive_seconds: float,
        stall_seconds: float,
        patience_seconds: float,
        answers: Callable[[Worker], Awaitable[bool | None]],
        stalled: Callable[[Worker], None],
        tidy: Callable[[], None],
    ) -> None:
        self.streams: set[ClientStream] = set()
        self.waits: set[Wait] = set()
        self._keepalive_seconds = keepalive_seconds
        self._stall_seconds = stall_seconds
        self._patience_seconds = patience_seconds
        self._answers = answers
        self._stalled = stalled
        self._tidy = tidy
        self._probes: dict[Worker, asyncio.Task[None]] = {}
        self._writes: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        clock = asyncio.get_running_loop().time
        pause = min(1.0, self._keepalive_seconds / 4, self._stall_seconds / 4)
        while True:
            await asyncio.sleep(pause)
            self._sweep(clock())
            self._tidy()

    def _sweep(self, now_seconds: float) -> None:
        create_task = asyncio.get_running_loop().create_task
        for stream in self.streams:
            if now_seconds - stream.last_write_seconds >= self._keepalive_seconds:
                stream.last_write_seconds = now_seconds
                write = create_task(stream.keep_alive())
                self._writes.add(write)
                write.add_done_callback(self._writes.discard)
        for worker in {wait.worker for wait in self.waits if self._silent(wait, now_seconds)}:
            if worker not in self._probes:
                self._probes[worker] = create_task(self._probe(worker))

    def _silent(self, wait: Wait, now_seconds: float) -> bool:
        if wait.paused:
            return False
        heard = max(wait.last_read_seconds, wait.worker.probed_alive_seconds)
        return now_seconds - heard >= self._stall_seconds

    async def _probe(self, worker: Worker) -> None:
        clock = asyncio.get_running_loop().time
        asked_seconds = clock()
        answers = await self._answers(worker)
        while answers is None and clock() - asked_seconds < self._patience_seconds:
            # New requests go elsewhere; those that it has may still be answered.
            self._stalled(worker)
            if self._heard_since(worker, asked_seconds):
                answers = True
            else:
                answers = await self._answers(worker)
        del self._probes[worker]
        if answers:
            worker.probed_alive_seconds = clock()
            return
        self._stalled(worker)
        for wait in list(self.waits):
            if wait.worker is worker and wait.last_read_seconds <= asked_seconds:
                wait.abort()

    def _heard_since(self, worker: Worker, seconds: float) -> bool:
        return any(
            wait.worker is worker and wait.last_read_seconds > max(seconds, wait.began_seconds)
            for wait in self.waits
        )

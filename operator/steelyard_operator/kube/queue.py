"""One queue of keys: each waits at most once, is worked on by one at a time, and comes back.

A key that fails comes back after a delay that doubles; a key that succeeds may name a time at
which to look again. Most workers are for keys that go first (services that serve), so that a crowd
of new ones holds none of them up. What is done with a key is the caller's.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

from steelyard_operator.errors import OperatorError
from steelyard_operator.kube.errors import words
from steelyard_operator.kube.metrics import QUEUE_DEPTH, QUEUE_SECONDS

log = logging.getLogger(__name__)

FOR_ALL = 4
"""One worker in this number takes the key that has waited longest, whatever it is; the others take
those that go first. A quarter of 16 makes some 40 new services a second."""

FIRST_BACK_OFF_SECONDS = 0.5
LONGEST_BACK_OFF_SECONDS = 30.0

Key = tuple[str, str]
"""The namespace and uid of a service."""

Work = Callable[[Key], Awaitable[float | None]]
"""Does a pass over one service."""


class WorkQueue:
    """Keys that wait for their pass."""

    def __init__(self, goes_first: Callable[[Key], bool] = lambda _: True) -> None:
        """Make an empty queue.

        Args:
            goes_first: whether a key that is added is one of those that others do not hold up.
        """
        self.goes_first = goes_first
        self._first: deque[Key] = deque()
        self._later: deque[Key] = deque()
        self._since: dict[Key, float] = {}  # keys in `_waiting`, and from when on
        self._busy: set[Key] = set()
        self._again: set[Key] = set()  # keys that were added while they were worked on
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def add_at_once(self, key: Key) -> None:
        """Ask for a pass also where the last ones failed: what they failed on may be mended."""
        self._failures.pop(key, None)
        self.add(key)

    def add(self, key: Key) -> None:
        """Ask for a pass as soon as possible; a key that waits already is not added twice.

        One whose last pass failed keeps its delay: a service that always fails, and whose pods
        change, would take all the time.
        """
        if key in self._busy:
            self._again.add(key)
        elif key not in self._failures or key not in self._timers:
            self._put(key)

    def _put(self, key: Key) -> None:
        self._cancel_timer(key)
        if key in self._since or self._closed:
            return
        self._since[key] = time.monotonic()
        (self._first if self.goes_first(key) else self._later).append(key)
        QUEUE_DEPTH.set(len(self._since))
        self._changed.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Ask for a pass later; an earlier time that was asked for stands."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_later(seconds, self._put, key)

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a key that will not come back."""
        self._cancel_timer(key)
        self._failures.pop(key, None)

    async def run(self, work: Work, concurrency: int) -> None:
        """Work until `close`; ends once what was begun is done.

        Args:
            work: does a pass; returns after how many seconds to look again, None for not at all.
            concurrency: how many passes there are at a time.
        """
        async with asyncio.TaskGroup() as workers:
            for number in range(concurrency):
                workers.create_task(self._worker(work, takes_all=number % FOR_ALL == 0))

    def close(self) -> None:
        """Begin nothing more."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._changed.set()

    @property
    def idle(self) -> bool:
        """Whether no key waits now and none is worked on; those with a later time do not count."""
        return not self._since and not self._busy

    def _next(self, *, takes_all: bool) -> Key | None:
        """Take the key that has waited longest, of those that a worker takes."""
        lanes = [lane for lane in (self._first, self._later if takes_all else ()) if lane]
        if not lanes:
            return None
        key = min(lanes, key=lambda lane: self._since[lane[0]]).popleft()
        QUEUE_SECONDS.observe(time.monotonic() - self._since.pop(key))
        QUEUE_DEPTH.set(len(self._since))
        return key

    async def _worker(self, work: Work, *, takes_all: bool) -> None:
        while not self._closed:
            key = self._next(takes_all=takes_all)
            if key is None:
                self._changed.clear()  # it wakes all that wait, whoever clears it
                await self._changed.wait()
                continue
            self._busy.add(key)
            again_after: float | None
            try:
                again_after = await work(key)
                self._failures.pop(key, None)
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                    raise  # it is us who end; what else was cancelled is this key's failure
                failures = self._failures[key] = self._failures.get(key, 0) + 1
                again_after = min(
                    FIRST_BACK_OFF_SECONDS * 2.0 ** min(failures - 1, 20), LONGEST_BACK_OFF_SECONDS
                )
                log.warning(
                    "%s: attempt %d failed, next in %.1f s: %s",
                    key,
                    failures,
                    again_after,
                    words(error),
                    # Where it comes from is told once: a key may fail for ever.
                    exc_info=failures == 1 and not isinstance(error, OperatorError),
                )
            finally:
                self._busy.discard(key)
            self._come_back(key, again_after)

    def _come_back(self, key: Key, seconds: float | None) -> None:
        added = key in self._again
        self._again.discard(key)
        if self._closed:
            return
        if added and key not in self._failures:
            self._put(key)
        elif seconds is not None:
            self.add_after(key, seconds)

    def _cancel_timer(self, key: Key) -> None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()

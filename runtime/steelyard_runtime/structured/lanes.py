"""The threads of the engine process that work on grammars, so that the step thread does not.

Two lanes: what is known to be slow shares one thread, so that it never stands before the masks of
ordinary grammars. llguidance lets other threads run while it compiles and while it makes a mask.
"""

import logging
import queue
import threading
from collections.abc import Callable

from steelyard_runtime.structured.bounds import TRIAL_STACK_BYTES

FAST_THREADS = 4  # the machine shares its cores among them, so a slow step passes no other

log = logging.getLogger(__name__)

Job = Callable[[], None]


class Lanes:
    """A fast and a slow queue of jobs, which tell their own failures."""

    def __init__(self) -> None:
        self._fast: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._slow: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._started = False
        self._lock = threading.Lock()

    def submit(self, job: Job, *, is_slow: bool) -> None:
        """Queue a job."""
        with self._lock:
            if not self._started:
                self._started = True
                self._start()
        (self._slow if is_slow else self._fast).put(job)

    def close(self) -> None:
        """End the threads after the jobs that they are at."""
        for _ in range(FAST_THREADS):
            self._fast.put(None)
        self._slow.put(None)

    def _start(self) -> None:
        # A grammar whose trial went through has a stack deep enough here.
        usual = threading.stack_size(2 * TRIAL_STACK_BYTES)
        try:
            for index in range(FAST_THREADS):
                self._thread(f"grammar-fast-{index}", self._fast)
            self._thread("grammar-slow", self._slow)
        finally:
            threading.stack_size(usual)

    @staticmethod
    def _thread(name: str, jobs: "queue.SimpleQueue[Job | None]") -> None:
        def work() -> None:
            while (job := jobs.get()) is not None:
                try:
                    job()
                except Exception:
                    log.exception("work on a grammar failed")

        threading.Thread(target=work, name=name, daemon=True).start()

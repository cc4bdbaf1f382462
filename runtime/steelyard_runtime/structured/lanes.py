"""The threads of the engine process that work on grammars, so that the step thread does not.

Two lanes: what is known to be slow shares one thread, so that it never stands before the masks of
ordinary grammars. llguidance lets other threads run while it compiles and while it makes a mask.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

from steelyard_runtime.structured.bounds import TRIAL_STACK_BYTES

FAST_THREADS = 4  # the machine shares its cores among them, so a slow step passes no other

log = logging.getLogger(__name__)

Job = Callable[[], None]


class Strand:
    """Jobs of one compiled grammar, one after the other; between two of them others take turns.

    Copies of a matcher share their lexer behind a lock, for which llguidance waits with the GIL
    held where a token is taken in: a mask of 1.4 s in another thread stopped all of Python.
    """

    def __init__(self, lanes: "Lanes") -> None:
        self._lanes = lanes
        self._jobs: deque[tuple[Job, bool]] = deque()
        self._is_busy = False
        self._lock = threading.Lock()

    def submit(self, job: Job, *, is_slow: bool) -> None:
        """Queue a job behind the others of this grammar."""
        with self._lock:
            self._jobs.append((job, is_slow))
            if self._is_busy:
                return
            self._is_busy = True
        self._go_on()

    def _go_on(self) -> None:
        with self._lock:
            if not self._jobs:
                self._is_busy = False
                return
            job, is_slow = self._jobs.popleft()
        self._lanes.submit(lambda: self._run(job), is_slow=is_slow)

    def _run(self, job: Job) -> None:
        try:
            job()
        finally:
            self._go_on()


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
                del job  # An idle thread keeps no grammar alive.

        threading.Thread(target=work, name=name, daemon=True).start()

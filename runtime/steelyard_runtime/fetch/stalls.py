"""Notices a source that keeps a fetch waiting: one that is silent, or sends a byte now and then.

Libraries bound the time between two bytes and not that of an answer. What is watched here ends the
whole process: a thread inside a library cannot be stopped, and an interrupted fetch goes on later.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from steelyard_runtime.fetch.telling import give_up

# Of a listing, with all its pages and the way to credentials.
LISTING_SECONDS = 300.0
# What one connection must bring in each such time; 9 kB/s, and a smaller file must be whole.
WINDOW_SECONDS = 120.0
WINDOW_BYTES = 1024 * 1024
POLL_SECONDS = 1.0


@contextlib.contextmanager
def listing_in_time(uri: str) -> Iterator[None]:
    """End the process where the source has not said in time what it has."""
    sentence = f"{uri} did not say within {LISTING_SECONDS:.0f} s which files it has"
    timer = threading.Timer(LISTING_SECONDS, give_up, [sentence])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _Reading:
    """One answer that is being read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.since_seconds = time.monotonic()
        self.got_bytes = 0


class Stalls:
    """Watches all connections of a fetch from a thread of its own."""

    def __init__(self, uri: str, end: Callable[[str], object] = give_up) -> None:
        self._uri = uri
        self._end = end
        self._lock = threading.Lock()
        self._readings: set[_Reading] = set()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch for as long as this lasts."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), name="stalls", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[Callable[[int], None]]:
        """Watch one answer; what is yielded is told how many bytes came."""
        one = _Reading(path)

        def got(count_bytes: int) -> None:
            one.got_bytes += count_bytes

        with self._lock:
            self._readings.add(one)
        try:
            yield got
        finally:
            with self._lock:
                self._readings.discard(one)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(POLL_SECONDS):
            now = time.monotonic()
            with self._lock:
                old = [one for one in self._readings if now - one.since_seconds >= WINDOW_SECONDS]
            for one in old:
                if one.got_bytes < WINDOW_BYTES:
                    self._end(
                        f"{self._uri}: '{one.path}' came with {one.got_bytes} bytes in "
                        f"{WINDOW_SECONDS:.0f} s; at least {WINDOW_BYTES} are needed"
                    )
                one.since_seconds, one.got_bytes = now, 0

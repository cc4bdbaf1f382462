"""How far a fetch is, as a log line now and then; many threads add to it."""

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
MEBIBYTE = 1024 * 1024


class Progress:
    """Counts bytes of all files together."""

    def __init__(self, total_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total_bytes = total_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._there_bytes = 0
        self._said_bytes = 0
        self._said_seconds = clock()

    def add(self, count_bytes: int) -> None:
        """Note bytes that are there now; fewer again (negative) where some were thrown away."""
        with self._lock:
            self._there_bytes += count_bytes
            passed_seconds = self._clock() - self._said_seconds
            if passed_seconds < INTERVAL_SECONDS:
                return
            speed = (self._there_bytes - self._said_bytes) / passed_seconds / MEBIBYTE
            self._said_seconds += passed_seconds
            self._said_bytes = self._there_bytes
        fields = {
            "fetched_bytes": self._there_bytes,
            "total_bytes": self._total_bytes,
            "percent": 100 * self._there_bytes // max(1, self._total_bytes),
            "mib_per_second": round(speed, 1),
        }
        logger.info("fetching", extra={"fields": fields})

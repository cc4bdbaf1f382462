"""How connections of the serving port end when the process is told to.

A client that keeps a connection (our router, another one) may be writing on it just when it is
closed. So from the signal on each answer says `Connection: close`, and a connection that was last
told it may stay is closed only after it has been silent for a while (`worker_process.py`).
"""

import time
from dataclasses import dataclass

CLOSE_HEADER = (b"connection", b"close")


@dataclass(slots=True, eq=False)
class Leaving:
    """Whether the process is about to end, and when a connection was last left open."""

    began: bool = False
    last_kept_seconds: float = 0.0  # monotonic

    def begin(self) -> None:
        """End connections with their next answer."""
        self.began = True
        self.kept()

    def kept(self) -> None:
        """Note an answer whose head had said before that the connection may stay."""
        self.last_kept_seconds = time.monotonic()

    def silent_seconds(self) -> float:
        """How long no such answer has ended."""
        return time.monotonic() - self.last_kept_seconds

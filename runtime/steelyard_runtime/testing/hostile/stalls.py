"""The control: a process that sleeps 50 ms and tells when it slept longer, so the machine stalled.

`python -m …stalls`: a line of JSON a stall. It runs on the same cores as the service, at an
ordinary priority, and asks nothing of it.
"""

import os
import sys
import time

import msgspec

from steelyard_runtime.parent_pipe import exit_with_parent

SLEEP_SECONDS = 0.05
# Less is how a busy scheduler takes turns.
STALL_SECONDS = 0.05


class Stall(msgspec.Struct, frozen=True):
    """When the process wanted to wake (CLOCK_MONOTONIC), and how much later it did."""

    at: float
    seconds: float

    def within(self, start: float, end: float) -> float:
        """Return how many of its seconds lie between two times."""
        return max(0.0, min(end, self.at + self.seconds) - max(start, self.at))


def main() -> None:
    """Watch the clock until the parent ends this process."""
    exit_with_parent(os.environ)
    encode = msgspec.json.Encoder().encode
    while True:
        due = time.monotonic() + SLEEP_SECONDS
        time.sleep(SLEEP_SECONDS)
        late = time.monotonic() - due
        if late > STALL_SECONDS:
            sys.stdout.buffer.write(encode(Stall(due, late)) + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

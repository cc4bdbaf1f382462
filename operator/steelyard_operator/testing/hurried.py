"""The operator with a balance whose time runs fifty times as fast.

Its holds and windows of minutes pass in seconds. Everything else has the usual clock.
"""

import asyncio
import sys
import time
from typing import Any

from steelyard_operator import main as process
from steelyard_operator.cli import main
from steelyard_operator.kube.balancing import Balancing

SPEED = 50.0


def clock() -> float:
    """Return seconds that pass as fast as the balance's, the same in every process."""
    return time.monotonic() * SPEED


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds / SPEED)


class Hurried(Balancing):
    """A balance with a clock of its own."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts, clock=clock, sleep=_sleep)


if __name__ == "__main__":
    vars(process)["Balancing"] = Hurried
    sys.exit(main())

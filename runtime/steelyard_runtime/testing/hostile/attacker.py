"""The process of one attack: `python -m …attacker NAME SEED TARGET`; two lines of JSON an attempt.

It has the lowest priority, so that what a good client waits for is the service and not this.
"""

import os
import random
import sys
import time

import msgspec

from steelyard_runtime.parent_pipe import exit_with_parent
from steelyard_runtime.testing.hostile.attacks import ATTACKS
from steelyard_runtime.testing.hostile.target import Target

LOWEST_PRIORITY = 19


class Attempted(msgspec.Struct, frozen=True):
    """One attempt: when it began (CLOCK_MONOTONIC), how long it took, what became of it."""

    at: float
    seconds: float
    outcome: str


BEGUN = "begun"  # written first; an attempt that has no other line was under way at the end


def main(name: str, seed: str, target: str) -> None:
    """Attack until the parent ends this process."""
    exit_with_parent(os.environ)
    os.nice(LOWEST_PRIORITY)
    attack, attempt = ATTACKS[name], ATTACKS[name].make()
    choose = random.Random(f"{name} {seed}")  # noqa: S311  # no secret
    aim = msgspec.json.decode(target, type=Target)
    encode = msgspec.json.Encoder().encode

    def tell(attempted: Attempted) -> None:
        sys.stdout.buffer.write(encode(attempted) + b"\n")
        sys.stdout.buffer.flush()

    time.sleep(choose.uniform(0, attack.every_seconds))
    while True:
        began = time.monotonic()
        tell(Attempted(began, 0.0, BEGUN))
        outcome = attempt(aim, choose)
        seconds = time.monotonic() - began
        tell(Attempted(began, seconds, outcome))
        time.sleep(max(0.0, attack.every_seconds - seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])

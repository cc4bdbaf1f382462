"""One sentence about what went wrong, where people and Kubernetes look for it."""

import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

TERMINATION_LOG = Path("/dev/termination-log")
NOT_NOW = 1
# A source's own words may be in a sentence, and Kubernetes keeps 4,096 bytes of it.
LONGEST_CHARACTERS = 1500


def tell(sentence: str) -> None:
    """Say what is wrong, in a container also where the pod's status takes it from."""
    line = one_line(sentence)
    sys.stderr.write(f"steelyard-runtime: fetch: {line}\n")
    sys.stderr.flush()
    if TERMINATION_LOG.is_file():
        with contextlib.suppress(OSError):
            TERMINATION_LOG.write_text(line, encoding="utf-8")


def give_up(sentence: str) -> NoReturn:
    """End this process at once, whatever a library waits for; what is half fetched stays."""
    tell(sentence)
    os._exit(NOT_NOW)


def one_line(text: str) -> str:
    """Return a text without control characters and lone surrogates, cut short."""
    shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
    return shown[:LONGEST_CHARACTERS]

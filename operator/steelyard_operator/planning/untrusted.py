"""Values out of a pod's answer: of the right form and inside bounds, or a ValueError.

Whoever wrote a resource chose what its pods answer. A number goes into sums and a status of 32
bits, a text into labels, logs and pages; so each is checked where it is read.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

MOST = 2**31 - 1
"""Of a count that a status may tell."""
LARGEST = 1e30
"""Of a sum; squares of tokens over a year of steps stay far below, and its own square is finite."""

_WORD = re.compile(r"[A-Za-z0-9_.:-]*", re.ASCII)


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object."""
    if not isinstance(value, Mapping):
        raise ValueError("must be an object")
    return value


def count(value: object, most: int = MOST) -> int:
    """Return a whole number from 0 to `most`."""
    found = amount(value)
    if found != int(found) or found > most:
        raise ValueError(f"must be a whole number from 0 to {most}")
    return int(found)


def amount(value: object) -> float:
    """Return a number from 0 to LARGEST."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    if not 0 <= value <= LARGEST:  # NaN is neither
        raise ValueError(f"must be from 0 to {LARGEST:g}")
    return float(value)


def amount_of(text: str) -> float:
    """Return the number that a text says, as a page of metrics has it."""
    found = float(text)
    return amount(found) if math.isfinite(found) else amount(-1)


def counts(value: object, longest: int) -> tuple[int, ...]:
    """Return a list of at most `longest` whole numbers."""
    if not isinstance(value, list) or len(value) > longest:
        raise ValueError(f"must be a list of at most {longest} numbers")
    return tuple(count(each, 2**53) for each in value)


def word(value: object, longest: int) -> str:
    """Return a text of letters, digits and `_.:-`, as names, phases and digests are."""
    if not isinstance(value, str) or len(value) > longest or not _WORD.fullmatch(value):
        raise ValueError(f"must be at most {longest} letters, digits, or any of '_.:-'")
    return value


def sentence(value: object, longest: int) -> str:
    """Return a text for people: cut, on one line, without control characters."""
    text = value if isinstance(value, str) else ""
    cut = text[:longest]
    return "".join(char if char.isprintable() else " " for char in cut)

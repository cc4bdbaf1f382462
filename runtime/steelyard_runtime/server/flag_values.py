"""Types of flag values: each returns a converter whose error says what is allowed."""

import argparse
import ipaddress
import math
import re
from collections.abc import Callable

_SUFFIXES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def one_of(*allowed: str) -> Callable[[str], str]:
    """Accept one of a few words."""

    def convert(value: str) -> str:
        if value not in allowed:
            names = ", ".join(allowed)
            raise argparse.ArgumentTypeError(f"must be one of {names}, got '{value}'")
        return value

    return convert


def text(value: str) -> str:
    """Accept any text that is not empty."""
    if not value.strip() or "\0" in value:
        raise argparse.ArgumentTypeError(f"must be a non-empty text, got '{value!r}'")
    return value


def count(low: int, high: int | None = None) -> Callable[[str], int]:
    """Accept an integer of at least `low` and at most `high`."""
    allowed = f"of at least {low}" if high is None else f"from {low} to {high}"

    def convert(value: str) -> int:
        number = int(value) if re.fullmatch(r"-?[0-9]{1,15}", value) else None
        if number is None or number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"must be an integer {allowed}, got '{value}'")
        return number

    return convert


port = count(0, 65535)


def positive_seconds(value: str) -> float:
    """Accept a positive, finite number of seconds."""
    seconds = _number(value)
    if not 0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, got '{value}'")
    return seconds


def pause_seconds(value: str) -> float:
    """Accept a finite number of seconds, or none."""
    seconds = _number(value)
    if not 0 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"must be seconds, 0 or more, got '{value}'")
    return seconds


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def share(value: str) -> float:
    """Accept a number above 0 and up to 1."""
    number = _number(value)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and up to 1, got '{value}'")
    return number


def byte_count(value: str) -> int:
    """Accept bytes; `K`, `M` and `G` are powers of 1024."""
    match = re.fullmatch(r"([0-9]{1,15})([KMG]?)(?:iB)?", value)
    number = int(match[1]) * _SUFFIXES[match[2]] if match else 0
    if number <= 0:
        raise argparse.ArgumentTypeError(
            f"must be a positive number of bytes such as 536870912 or 512M, got '{value}'"
        )
    return number


def addresses(value: str) -> tuple[str, ...]:
    """Accept address ranges in CIDR notation, separated by commas."""
    parts = tuple(part.strip() for part in value.split(",") if part.strip())
    try:
        for part in parts:
            ipaddress.ip_network(part, strict=False)
    except ValueError:
        parts = ()
    if not parts:
        raise argparse.ArgumentTypeError(
            f"must be address ranges such as 10.0.0.0/8,192.168.1.7/32, got '{value}'"
        )
    return parts

"""Where two objects differ, as lines for people. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

LONGEST_VALUE = 80


def differences(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each field of `wanted` that `found` has differently.

    What only `found` has is not ours: the API server's defaults, and other people's fields.
    """
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for name, value in wanted.items():
            inner = f"{path}.{name}" if path else name
            if name in found:
                yield from differences(value, found[name], inner)
            elif value not in ({}, [], None):
                yield f"{inner}: added, {_short(value)}"
    elif isinstance(wanted, list) and isinstance(found, list):
        for number, (one, other) in enumerate(zip(wanted, found, strict=False)):
            yield from differences(one, other, f"{path}[{number}]")
        if len(wanted) != len(found):
            yield f"{path}: {len(found)} items become {len(wanted)}"
    elif wanted != found:
        yield f"{path}: {_short(found)} becomes {_short(wanted)}"


def both_ways(new: Mapping[str, Any], old: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield a line for each difference, also for what is only in `old`."""
    yield from differences(new, old, path)
    for name, value in old.items():
        inner = f"{path}.{name}" if path else name
        if name not in new:
            yield f"{inner}: removed, was {_short(value)}"
        elif isinstance(value, Mapping) and isinstance(new[name], Mapping):
            yield from (line for line in both_ways(new[name], value, inner) if ": removed" in line)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 3] + "..."

"""Ends a text at the first stop string, across the borders of the pieces that it comes in.

Text that may be the beginning of a stop string is held back until it is certain.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Checked:
    """What may be shown now; `stop` is the stop string that ended the text, None while it runs."""

    text: str
    stop: str | None = None


class StopChecker:
    """Finds stop strings in a growing text. The match that ends first wins, then the longest."""

    __slots__ = ("_held", "_include", "_longest", "_prefixes", "_stops")

    def __init__(self, stops: Sequence[str], *, include_stop_str_in_output: bool = False) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._include = include_stop_str_in_output
        self._longest = max(map(len, self._stops), default=0)
        self._prefixes = frozenset(
            stop[:length] for stop in self._stops for length in range(1, len(stop))
        )
        self._held = ""

    def push(self, text: str) -> Checked:
        """Take new text; after a match nothing more may be pushed."""
        if not self._stops:
            return Checked(text)
        whole = self._held + text
        match = self._first_match(whole)
        if match is not None:
            start, stop = match
            self._held = ""
            return Checked(whole[: start + len(stop)] if self._include else whole[:start], stop)
        keep = self._held_length(whole)
        self._held = whole[len(whole) - keep :]
        return Checked(whole[: len(whole) - keep])

    def finish(self) -> str:
        """Return what was held back, for a text that ends without a match."""
        text, self._held = self._held, ""
        return text

    def _first_match(self, whole: str) -> tuple[int, str] | None:
        found = ((whole.find(stop), stop) for stop in self._stops)
        ends = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
        if not ends:
            return None
        _, start, stop = min(ends)
        return start, stop

    def _held_length(self, whole: str) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        for length in range(min(self._longest - 1, len(whole)), 0, -1):
            if whole[-length:] in self._prefixes:
                return length
        return 0

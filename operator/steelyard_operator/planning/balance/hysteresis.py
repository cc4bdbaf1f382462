"""From what is needed to what is wanted: up at once, down late, a flip before an addition. Pure."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from steelyard_operator.planning.balance.signals import Limits, Split

# How long a role must have been too large before its last spare worker is removed: a new one costs
# a cold start.
HOLD_SECONDS = 120.0
# What is more than a spare worker above the need of so long goes sooner, down to half of what was
# needed within the hold: traffic that pauses comes back.
SHORT_HOLD_SECONDS, SPARE = 10.0, 0.05
# Where a need at least doubled within a cold start, by so many workers or more, no start is in time
# the next time either: all that was needed within so long stays.
STEEP, STEEP_WORKERS, STEEP_HOLD_SECONDS = 2, 3, 300.0
# For how long a steep rise is remembered.
MEMORY_SECONDS = 1200.0
# Of the most workers that there were in the last minutes this share stays in any case: one pause is
# no reason to begin anew.
KEPT = 0.35
# Nothing goes before so much was seen, and none of a role whose need has risen within so long.
SHRINK_AFTER_SECONDS, RISE_SECONDS = 60.0, 30.0
# How long a worker must have been spare before it changes its role: changing back costs a drain.
FLIP_HOLD_SECONDS = 10.0
# Spare for so long, a worker is waited for instead of a new one being made.
FLIP_SOON_SECONDS = 5.0
# And how long demand must have been seen at all: a rate needs its window.
FLIP_AFTER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Needed:
    """What one tick asked for."""

    at_seconds: float
    """On the planner's own clock."""
    split: Split
    """By the demand, without what it takes to catch up."""
    least: Split
    """By the last seconds alone, where they were quieter: what is beyond it may be given away."""
    low: Split
    """The least `split` within a cold start before."""


@dataclass(frozen=True, slots=True)
class Past:
    """What was needed, oldest first, the last of now; never empty."""

    needs: tuple[Needed, ...]
    seen_seconds: float
    """For how long demand has been seen, up to some minutes."""
    had: Split
    """The most workers that there were in that time."""

    def most(self, seconds: float) -> Split:
        """Return the most workers of each role that were needed in so long."""
        return _each(max, [past.split for past in self._since(seconds)])

    def fewest(self, seconds: float) -> Split:
        """Return the fewest."""
        return _each(min, [past.split for past in self._since(seconds)])

    def least(self, seconds: float) -> Split:
        """Return the most by each tick's last seconds alone."""
        return _each(max, [past.least for past in self._since(seconds)])

    def leaps(self) -> tuple[bool, bool]:
        """Return whether the needs of prefill and of decode have risen steeply."""
        return (
            any(_steep(past.low.prefill, past.split.prefill) for past in self.needs),
            any(_steep(past.low.decode, past.split.decode) for past in self.needs),
        )

    def _since(self, seconds: float) -> tuple[Needed, ...]:
        begin, start = self.needs[-1].at_seconds - seconds, len(self.needs) - 1
        while start and self.needs[start - 1].at_seconds >= begin:
            start -= 1
        return self.needs[start:]


def remembered(
    needs: tuple[Needed, ...], now_seconds: float, split: Split, least: Split, cold_seconds: float
) -> tuple[Needed, ...]:
    """Return the needs with that of now, without those that are too old to matter."""
    lately = [each.split for each in needs if each.at_seconds >= now_seconds - cold_seconds]
    start = 0
    while start < len(needs) and needs[start].at_seconds < now_seconds - MEMORY_SECONDS:
        start += 1
    return (*needs[start:], Needed(now_seconds, split, least, _each(min, [*lately, split])))


def settled(now: Split, needed: Split, past: Past, limits: Limits) -> tuple[Split, str]:
    """Return the split to have, and why in one CamelCase word.

    Args:
        now: workers that there are.
        needed: of now, with those that catch up.
        past: what was needed.
        limits: of the resource; only whether workers may flip counts here.
    """
    grown = Split(max(now.prefill, needed.prefill), max(now.decode, needed.decode))
    may_flip = limits.flips and None is limits.fixed_prefill is limits.fixed_decode
    if may_flip and grown != now and past.seen_seconds >= FLIP_AFTER_SECONDS:
        flipped = _flipped(now, grown, past, limits)
        if flipped:
            return flipped
    if grown != now:
        return grown, "MoreDemand"
    if past.seen_seconds < SHRINK_AFTER_SECONDS:
        return now, "Watching"
    shrunk = _shrunk(now, needed, past)
    return shrunk, "LessDemand" if shrunk != now else "Steady"


def _flipped(now: Split, grown: Split, past: Past, limits: Limits) -> tuple[Split, str] | None:
    """Return the split in which spare workers of one role are what the other lacks."""
    missing = Split(grown.prefill - now.prefill, grown.decode - now.decode)
    spare = _spare(now, past, limits, FLIP_HOLD_SECONDS)
    if missing.prefill > 0 and spare.decode > 0:
        moved = min(missing.prefill, spare.decode)
        return Split(grown.prefill, now.decode - moved), "MorePrefill"
    if missing.decode > 0 and spare.prefill > 0:
        moved = min(missing.decode, spare.prefill)
        return Split(now.prefill - moved, grown.decode), "MoreDecode"
    soon = _spare(now, past, limits, FLIP_SOON_SECONDS)
    if 0 < missing.prefill <= soon.decode or 0 < missing.decode <= soon.prefill:
        # What is about to be spare is there sooner than a worker that is made.
        return now, "FlipSoon"
    return None


def _spare(now: Split, past: Past, limits: Limits, seconds: float) -> Split:
    """Return how many workers of each role were not needed for so long."""
    least = past.least(seconds)
    return Split(
        now.prefill - max(limits.min_prefill, least.prefill),
        now.decode - max(limits.min_decode, least.decode),
    )


def _shrunk(now: Split, needed: Split, past: Past) -> Split:
    whole, held = past.seen_seconds >= HOLD_SECONDS, past.most(HOLD_SECONDS)
    lately, steeply = past.most(SHORT_HOLD_SECONDS), past.most(STEEP_HOLD_SECONDS)
    leaps, last, fewest = past.leaps(), past.needs[-1].split, past.fewest(RISE_SECONDS)

    def role(count: int, each: Callable[[Split], int], *, leapt: bool) -> int:
        if each(last) > each(fewest) or each(needed) > each(last):
            return count  # It rises, or there is something to catch up with.
        if whole and each(held) == 0:
            return 0  # Nothing came: where that is allowed, all go.
        most = max(_with_spare(each(lately)), math.ceil(each(held) / 2))
        if whole:
            most = min(most, each(held))
        if leapt:
            most = max(most, each(steeply))
        return min(count, max(most, math.ceil(KEPT * each(past.had))))

    return Split(
        role(now.prefill, lambda split: split.prefill, leapt=leaps[0]),
        role(now.decode, lambda split: split.decode, leapt=leaps[1]),
    )


def _with_spare(count: int) -> int:
    return count + max(1, math.ceil(SPARE * count))


def _steep(low: int, high: int) -> bool:
    return high >= STEEP * low and high >= low + STEEP_WORKERS


def _each(choose: Callable[[list[int]], int], splits: list[Split]) -> Split:
    return Split(
        choose([split.prefill for split in splits]), choose([split.decode for split in splits])
    )

"""Needs become splits: up at once, down late, a flip before an addition."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard_operator.planning.balance.hysteresis import (
    HOLD_SECONDS,
    MEMORY_SECONDS,
    SHORT_HOLD_SECONDS,
    Needed,
    Past,
    remembered,
    settled,
)
from steelyard_operator.planning.balance.signals import Limits, Split

TICK, COLD = 5.0, 60.0
LIMITS = Limits(max_workers=64)


def played(needs: list[int], start: int) -> list[int]:
    """Return the prefill workers at each tick, each wish fulfilled at once."""
    have, found, past = start, [], ()
    counts: list[int] = []
    for tick, need in enumerate(needs):
        split = Split(need, 1)
        past = remembered(past, tick * TICK, split, split, COLD)
        counts.append(have)
        window = counts[-round(600 / TICK) :]
        seen = Past(past, len(window) * TICK, Split(max(window), 1))
        have = settled(Split(have, 1), split, seen, LIMITS)[0].prefill
        found.append(have)
    return found


def seconds(ticks: int) -> float:
    """Return how long so many ticks are."""
    return ticks * TICK


def test_what_is_beyond_one_spare_goes_soon_and_the_last_after_the_hold() -> None:
    """From ten workers to seven: two go after the short hold, one after the long one."""
    sizes = played([10] * 130 + [7] * 60, 10)[130:]

    assert seconds(sizes.index(8)) == SHORT_HOLD_SECONDS
    assert seconds(sizes.index(7)) == HOLD_SECONDS


def test_a_third_stays_for_ten_minutes() -> None:
    """A pause may end: the rest goes only when the first have been gone for long."""
    sizes = played([12] * 130 + [1] * 400, 12)[130:]

    assert min(sizes[:120]) == 5
    assert sizes[-1] == 1


def test_nothing_needed_for_the_whole_hold_is_nothing_kept() -> None:
    """A service that nobody asks goes to zero at once after the hold, where its limits let it."""
    sizes = played([4] * 130 + [0] * 60, 4)[130:]

    assert seconds(sizes.index(0)) == HOLD_SECONDS


@pytest.mark.parametrize(("dip_seconds", "kept"), [(150, 9), (270, 9), (600, 4)])
def test_after_a_steep_rise_a_dip_is_waited_out(dip_seconds: int, kept: int) -> None:
    """What came faster than a worker starts stays for five minutes; a longer dip is followed."""
    dip = [3] * round(dip_seconds / TICK)
    sizes = played([3] * 40 + [9] * 40 + dip + [9] * 10, 4)

    assert min(sizes[80 : 80 + len(dip)]) == kept
    assert sizes[-1] == 9


def test_after_a_slow_rise_a_dip_is_followed() -> None:
    """The same workers, come to in minutes: a start is in time then, so the spare ones go."""
    rise = [count for count in range(3, 10) for _ in range(20)]
    sizes = played([*rise, *[5] * 40], 4)

    assert sizes[-1] < 9


@given(st.lists(st.integers(0, 20), min_size=1, max_size=100), st.integers(0, 20))
def test_there_are_never_fewer_than_needed(needs: list[int], start: int) -> None:
    """Whatever comes and whatever is held, the need of now is met."""
    assert all(have >= need for have, need in zip(played(needs, start), needs, strict=True))


def test_what_is_old_is_forgotten() -> None:
    """Only so much is carried from tick to tick."""
    past: tuple[Needed, ...] = ()
    for tick in range(1000):
        past = remembered(past, tick * TICK, Split(1, 1), Split(1, 1), COLD)

    assert past[-1].at_seconds - past[0].at_seconds == MEMORY_SECONDS


@pytest.mark.parametrize(
    ("spare_seconds", "reason", "split"),
    [
        (2.0, "MoreDemand", Split(3, 2)),
        (7.0, "FlipSoon", Split(3, 1)),
        (40.0, "MoreDecode", Split(2, 2)),
    ],
)
def test_a_worker_that_is_about_to_be_spare_is_waited_for(
    spare_seconds: float, reason: str, split: Split
) -> None:
    """Spare for a moment means nothing; for five seconds, that a flip is near."""
    splits = [Split(2 if 70 - at <= spare_seconds else 3, 1) for at in range(0, 75, 5)]
    needs = tuple(Needed(5.0 * n, one, one, one) for n, one in enumerate(splits))

    made = settled(Split(3, 1), Split(1, 2), Past(needs, 70.0, Split(3, 1)), LIMITS)

    assert made == (split, reason)
    assert settled(
        Split(3, 1), Split(1, 2), Past(needs, 70.0, Split(3, 1)), replace(LIMITS, flips=False)
    ) == (Split(3, 2), "MoreDemand")


def test_nothing_is_removed_while_there_is_something_to_catch_up_with() -> None:
    """Fewer are needed than there are, but more than the demand alone would need."""
    needs = tuple(Needed(5.0 * n, *[Split(3, 1)] * 3) for n in range(60))
    past = Past(needs, 300.0, Split(6, 1))

    assert settled(Split(6, 1), Split(5, 1), past, LIMITS) == (Split(6, 1), "Steady")
    assert settled(Split(6, 1), Split(3, 1), past, LIMITS) == (Split(3, 1), "LessDemand")

"""Where both roles lack workers: nothing is given away that is needed soon, nor made in excess."""

from dataclasses import replace

import pytest

from steelyard_operator.planning.balance import planner
from steelyard_operator.planning.balance.capacity import Capacity
from steelyard_operator.planning.balance.planner import PlannerState, Settings, decide
from steelyard_operator.planning.balance.signals import Limits, Objectives, Signals, Split

TICK = 5.0
CAPACITY = Capacity(10_000, 0.0, 0.010, 0.0001, 0.0, 1_000_000, 1000)
SETTINGS = Settings(Objectives(ttft_seconds=1.0, tpot_seconds=0.020), CAPACITY, 60.0)
LIMITS = Limits(max_workers=200)
START = Split(8, 8)


def tick(requests: float, decoding: int = 0, answer: int = 400, now: Split = START) -> Signals:
    """Return a tick of prompts of 1,000 tokens."""
    count = round(requests)
    return Signals(
        TICK, count, 1000 * count, 1e6 * count, count, answer * count, (1000 + answer) * count,
        0, decoding, now.prefill, now.decode,
    )  # fmt: skip


def short() -> bool:
    """Return whether prefill ever has less than it needs while arrivals grow by 3 % a tick."""
    state, now, found = PlannerState(), Split(54, 66), False
    for number in range(26):
        requests = 2000 * 1.03 ** max(0, number - 12)
        seen = tick(requests, answer=700, now=now)
        state, decision = decide(state, seen, LIMITS, SETTINGS)
        found |= decision.split.prefill < min(now.prefill, decision.needed.prefill)
    assert decision.split.decode > now.decode
    return found


def test_what_a_rising_role_will_need_is_not_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefill has enough for the last seconds, and will not have: decode gets new workers."""
    assert not short()

    monkeypatch.setattr(planner, "quieter", lambda _: (True, True))
    assert short(), "this load needs no such rule"


def test_sequences_that_wait_need_what_ends_them_in_time() -> None:
    """3,000 are beyond what 8 workers may have; an answer takes 8 s, a start sixty.

    By those that are being written 10 are needed, and 4 end what waits while they start.
    """
    state = PlannerState()
    for _ in range(12):
        state, calm = decide(state, tick(200), LIMITS, SETTINGS)
    crowded = decide(state, tick(200, 800 + 3000), LIMITS, SETTINGS)[1]

    assert (calm.needed.decode, crowded.needed.decode) == (4, 14)


def test_where_answers_take_longer_than_a_start_each_sequence_needs_its_place() -> None:
    """None ends before a new worker is there."""
    settings = replace(SETTINGS, cold_start_seconds=1.0)
    state = PlannerState()
    for _ in range(12):
        state, _ = decide(state, tick(200), LIMITS, settings)

    assert decide(state, tick(200, 3800), LIMITS, settings)[1].needed.decode == 38

"""Ticks of measured demand become splits: inside all limits, at once upwards, slowly downwards."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard_operator.errors import UserError
from steelyard_operator.planning.balance.capacity import Capacity
from steelyard_operator.planning.balance.cost import dollars_per_million
from steelyard_operator.planning.balance.ledger import line, replay
from steelyard_operator.planning.balance.planner import Decision, PlannerState, Settings, decide
from steelyard_operator.planning.balance.signals import Limits, Objectives, Signals, Split

TICK = 5.0
SETTINGS = Settings(
    Objectives(ttft_seconds=1.0, tpot_seconds=0.020),
    Capacity(10_000, 0.0, 0.010, 0.0001, 0.0, 1_000_000, 1000),
    cold_start_seconds=60.0,
)
LIMITS = Limits(max_workers=16)


def tick(requests: int, split: Split, *, length: int = 1000, output: int = 100) -> Signals:
    """Return what a steady load looks like that is answered as it comes."""
    return Signals(
        seconds=TICK,
        requests=requests,
        input_tokens=requests * length,
        input_tokens_squared=float(requests * length**2),
        finished=requests,
        finished_output_tokens=requests * output,
        context_tokens=requests * (length + output),
        backlog_tokens=0,
        decoding=0,
        prefill=split.prefill,
        decode=split.decode,
    )


def played(loads: list[dict[str, int]], start: Split, limits: Limits = LIMITS) -> list[Decision]:
    """Decide tick after tick; each decision is carried out at once."""
    state, split, made = PlannerState(), start, []
    for load in loads:
        state, decision = decide(state, tick(split=split, **load), limits, SETTINGS)
        split = decision.split
        made.append(decision)
    return made


STEADY = {"requests": 50}  # 10 a second: 1 prefill worker at its limit, 1,000 output tokens/s


def test_a_steady_load_moves_nothing_for_ten_minutes() -> None:
    """The split that suffices stays."""
    start = played([STEADY] * 120, Split(3, 1))[-1].split

    assert {d.split for d in played([STEADY] * 120, start)[40:]} == {start}


def test_more_demand_is_followed_at_the_next_ticks() -> None:
    """Three times the arrivals are more prefill workers within half a minute of being seen."""
    made = played([STEADY] * 60 + [{"requests": 150}] * 12, Split(2, 1))

    assert made[-1].split.prefill >= 4
    assert made[-1].reason in ("Steady", "MoreDemand")


@pytest.mark.parametrize("spare_ticks", [3, 20])
def test_a_swing_between_the_roles_is_a_flip(spare_ticks: int) -> None:
    """Short prompts with long answers: a prefill worker becomes a decode worker, none is added."""
    made = played(
        [{"requests": 100, "length": 1000, "output": 20}] * 80
        + [{"requests": 100, "length": 50, "output": 20}] * spare_ticks
        + [{"requests": 100, "length": 50, "output": 400}] * 40,
        Split(4, 1),
    )
    totals = [decision.split.total for decision in made[80:]]
    flipped = next(d for d in made[80:] if d.split.decode > 1)

    assert flipped.reason == "MoreDecode"
    assert flipped.split.prefill < 4
    assert max(totals) <= made[79].split.total


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_with_long_ticks_a_swing_is_a_flip_by_the_first_tick_of_it(share: float) -> None:
    """The tick in which traffic turns has both kinds; what is spare shows in the one after it."""
    prompts = Signals(20.0, 40, 40_000, 4e7, 40, 800, 40_800, 0, 0, prefill=4, decode=1)
    answers = Signals(20.0, 400, 4_000, 4e4, 100, 40_000, 41_000, 0, 400, prefill=4, decode=1)
    turn = replace(
        answers,
        requests=round(share * 40 + (1 - share) * 400),
        input_tokens=round(share * 40_000 + (1 - share) * 4_000),
        input_tokens_squared=share * 4e7 + (1 - share) * 4e4,
        decoding=round((1 - share) * 400),
    )
    settings = replace(SETTINGS, capacity=replace(SETTINGS.capacity, prefill_tokens_per_second=900))
    limits, state, reasons = replace(LIMITS, max_workers=5), PlannerState(), []
    for signals in [*[prompts] * 10, turn, answers]:
        state, decision = decide(state, signals, limits, settings)
        reasons.append(decision.reason)

    assert "MoreDecode" in reasons[10:]
    assert "MoreDecode" not in reasons[:10]


def test_without_flips_roles_only_grow() -> None:
    """`flip: Disabled` adds instead."""
    limits = replace(LIMITS, flips=False)
    made = played(
        [{"requests": 100, "length": 1000, "output": 20}] * 80
        + [{"requests": 100, "length": 50, "output": 700}] * 4,
        Split(4, 1),
        limits,
    )

    assert made[-1].split.prefill == made[79].split.prefill


def test_nothing_is_done_before_enough_was_seen() -> None:
    """One tick says nothing."""
    assert played([{"requests": 500}], Split(1, 1))[0].reason == "Watching"


def test_a_ceiling_holds_workers_back() -> None:
    """What the tokens of now would cost stays under the ceiling."""
    limits = replace(LIMITS, dollars_per_worker_hour=2.0, ceiling_per_million_tokens=0.06)
    decision = played([{"requests": 150}] * 40, Split(2, 1), limits)[-1]

    tokens = (decision.demand.input_tokens + decision.demand.output_tokens) * 3600
    assert decision.reason == "Ceiling"
    assert dollars_per_million(2.0, decision.split.total, tokens) <= 0.06


LOADS = st.lists(
    st.fixed_dictionaries(
        {
            "requests": st.integers(0, 400),
            "length": st.integers(1, 5000),
            "output": st.integers(1, 1000),
        }
    ),
    min_size=1,
    max_size=60,
)


@given(LOADS, st.integers(2, 12), st.integers(1, 6), st.integers(1, 6))
def test_limits_hold_whatever_comes(
    loads: list[dict[str, int]], room: int, max_prefill: int, max_decode: int
) -> None:
    """Never more than the budget, never outside a role's range."""
    limits = Limits(room, max_prefill=max_prefill, max_decode=max_decode)

    for decision in played(loads, Split(1, 1), limits):
        split = decision.split
        assert split.total <= room
        assert 1 <= split.prefill <= max_prefill
        assert 1 <= split.decode <= max_decode


@given(LOADS)
def test_fixed_replicas_stop_the_planner_for_the_role(loads: list[dict[str, int]]) -> None:
    """Whatever is measured, the resource's own number stays."""
    limits = replace(LIMITS, fixed_prefill=2)

    assert {d.split.prefill for d in played(loads, Split(2, 1), limits)} == {2}


def test_zero_is_reached_where_it_is_allowed() -> None:
    """Without requests and with a least of 0 all workers go, after the hold."""
    limits = replace(LIMITS, min_prefill=0, min_decode=0)
    made = played([STEADY] * 60 + [{"requests": 0}] * 200, Split(2, 1), limits)

    assert made[-1].split == Split(0, 0)


def a_ledger(loads: list[dict[str, int]]) -> list[str]:
    state, split, lines = PlannerState(), Split(2, 1), []
    for load in loads:
        signals = tick(split=split, **load)
        state, decision = decide(state, signals, LIMITS, SETTINGS)
        lines.append(line(signals, LIMITS, SETTINGS, decision))
        split = decision.split
    return lines


SWINGS = [{"requests": 50 + 10 * (index // 20 % 7)} for index in range(200)]


def test_a_ledger_is_decided_again_from_its_inputs_alone() -> None:
    """Without the decisions in the file the same ones come out."""
    lines = a_ledger(SWINGS)
    stripped = [json.dumps({**json.loads(text), "decision": None}) for text in lines]

    made = [again.decision.split for again in replay(stripped)]

    recorded = [json.loads(text)["decision"]["split"] for text in lines]
    assert [(s.prefill, s.decode) for s in made] == [(r["prefill"], r["decode"]) for r in recorded]


def test_other_arrivals_are_decided_otherwise() -> None:
    """Twice as many requests need more workers."""
    lines = a_ledger(SWINGS)

    once = [again.decision.split for again in replay(lines)]
    twice = [again.decision.split for again in replay(lines, arrivals=2.0)]

    assert once != twice
    assert max(s.total for s in twice) > max(s.total for s in once)


@pytest.mark.parametrize("text", ["{", "{}", '{"signals": {"seconds": 1}}'])
def test_a_line_that_is_no_tick_is_named(text: str) -> None:
    """The line's number is in the sentence."""
    with pytest.raises(UserError, match="line 2 is no tick"):
        list(replay([*a_ledger([STEADY]), text]))


def test_ledgers_of_several_services_and_logs_may_be_mixed() -> None:
    """Each service is decided by itself; a log's lines are passed over; a fresh start is one."""
    one, other = a_ledger(SWINGS), a_ledger([STEADY] * 200)

    def of(service: str, lines: list[str]) -> list[str]:
        return [json.dumps({"service": service, **json.loads(text)}) for text in lines]

    restarted = [json.dumps({"first": index == 0, **json.loads(t)}) for index, t in enumerate(one)]
    mixed = [
        text
        for pair in zip(of("a", one), of("b", other), strict=True)
        for text in (*pair, "2026-11-27 INFO pod made")
    ]

    for lines in (mixed, [*one[:100], *restarted]):
        for again in replay(lines):
            assert again.recorded is not None
            split = again.decision.split
            assert again.recorded["split"] == {"prefill": split.prefill, "decode": split.decode}


@given(
    prefill=st.integers(0, 20),
    decode=st.integers(1, 20),
    bounds=st.tuples(st.integers(1, 400), st.integers(1, 400)).map(sorted),
)
def test_the_ratio_of_the_roles_stays_inside_its_bounds(
    prefill: int, decode: int, bounds: list[int]
) -> None:
    """Whatever is needed, the role that is too small for the other is raised where it may be."""
    limits = replace(
        LIMITS, max_workers=10_000, min_prefill_percent=bounds[0], max_prefill_percent=bounds[1]
    )
    state, signals = PlannerState(), tick(0, Split(prefill, decode))
    chosen = decide(state, signals, limits, SETTINGS)[1].split

    # Whole workers do not always divide: one more or less of the other role is inside.
    assert chosen.prefill * 100 >= bounds[0] * (chosen.decode - 1)
    assert (chosen.prefill - 1) * 100 <= bounds[1] * chosen.decode


@pytest.mark.parametrize(
    ("length", "output", "split"), [(4000, 20, Split(2, 1)), (50, 2000, Split(1, 2))]
)
def test_a_full_budget_goes_to_the_role_that_lacks_most(
    length: int, output: int, split: Split
) -> None:
    """By what each role needs, also where neither may have so many."""
    limits = replace(LIMITS, max_workers=3, max_prefill=2, max_decode=2)
    made = played([{"requests": 100, "length": length, "output": output}] * 80, Split(1, 1), limits)

    assert made[-1].needed.total > 3
    assert made[-1].split == split


def test_a_full_budget_that_both_roles_lack_alike_stays_as_it_is() -> None:
    """Two of each are needed and three may be had: neither split is better, so none is left."""
    limits = replace(LIMITS, max_workers=3, max_prefill=2, max_decode=2)
    load = {"requests": 45, "length": 1000, "output": 700}

    for start in (Split(2, 1), Split(1, 2)):
        made = played([load] * 80, start, limits)

        assert made[-1].needed == Split(2, 2)
        assert {decision.split for decision in made} == {start}

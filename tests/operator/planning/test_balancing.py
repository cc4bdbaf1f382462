"""Ticks over a service: from what routers and workers say to a wanted split."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning.balance.ledger import replay
from steelyard_operator.planning.balance.readings import RouterReading
from steelyard_operator.planning.balance.signals import Split
from steelyard_operator.planning.balancing import (
    REALISED_AFTER,
    REMEMBERED_PROCESSES,
    Balance,
    Facts,
    Tick,
    dollars,
    milliseconds,
    tick,
)
from steelyard_operator.planning.bounding import is_planned, limits, objectives, wake_up
from steelyard_operator.testing import NOON, a_service
from steelyard_operator.testing.demand import step_sums

RANGE = {"minReplicas": 1, "maxReplicas": 6}
TICK_SECONDS = 5.0


class Traffic:
    """A service whose router counts what arrives and whose choices are carried out at once."""

    def __init__(self, service: InferenceService, split: Split) -> None:
        self.service, self.split = service, split
        self.now, self.balance = NOON, Balance()
        self.sums = [0.0] * 6
        self.ticks: list[Tick] = []

    def play(
        self, requests: int, *, length: int = 100, output: int = 20, count: int = 1, **more: Any
    ) -> None:
        """Let so many requests come and end in each of `count` ticks."""
        for _ in range(count):
            self.now += timedelta(seconds=TICK_SECONDS)
            came = (
                requests,
                requests * length,
                requests * length**2,
                requests,
                requests * output,
                requests * (length + output),
            )
            self.sums = [a + b for a, b in zip(self.sums, came, strict=True)]
            facts = Facts(
                now=self.now,
                seconds=TICK_SECONDS,
                routers=[RouterReading("r", tuple(self.sums), **more)],
                workers=self.split,
                paid=self.split,
                steps={"a": step_sums()},
                about="ns/demo",
            )
            made = tick(self.service, self.balance, facts, can_flip=True)
            self.balance = made.balance
            self.ticks.append(made)
            if made.balance.wanted:
                self.split = Split(made.balance.wanted.prefill, made.balance.wanted.decode)


def test_a_swing_from_answers_to_prompts_flips() -> None:
    """Long prompts and short answers move a worker to prefill, and back when they end."""
    traffic = Traffic(
        a_service(
            prefill=RANGE,
            decode=RANGE,
            capacity={"maxAccelerators": 3},
            objectives={"ttftMilliseconds": 1000, "tpotMilliseconds": 40},
        ),
        Split(1, 2),
    )
    traffic.play(20, length=20, output=300, count=60)
    assert traffic.split == Split(1, 2)

    traffic.play(12, length=500, output=8, count=60)
    assert traffic.split == Split(2, 1)
    told = traffic.balance.decisions[0]
    assert (told.inputs.workers.prefill, told.target.prefill) == (1, 2)
    assert "prompt and" in told.message
    assert told.predicted is not None
    assert told.predicted.ttft_milliseconds is not None

    traffic.play(20, length=20, output=300, count=120)
    assert traffic.split == Split(1, 2)
    assert [(d.target.prefill, d.target.decode) for d in traffic.balance.decisions] == [
        (1, 2),
        (2, 1),
    ]
    assert traffic.balance.decisions[1].realised is not None


def test_a_warm_prefix_cache_needs_fewer_prefill_workers() -> None:
    """The same prompts, nine tenths of them cached: what has to be computed counts."""
    service = a_service(
        prefill=RANGE, decode=RANGE, objectives={"ttftMilliseconds": 300, "tpotMilliseconds": 100}
    )
    wanted = []
    for cached in (0.0, 0.9):
        traffic = Traffic(service, Split(1, 1))
        tokens = 0.0
        for _ in range(60):
            tokens += 40 * 2000
            traffic.play(40, length=2000, prefilled=(tokens, cached * tokens))
        wanted.append(traffic.split.prefill)
        share = traffic.balance.prefilled[1] / traffic.balance.prefilled[0]
        assert share == pytest.approx(cached)

    assert wanted[1] < wanted[0]


def test_the_ledger_alone_gives_the_same_decisions() -> None:
    """Every tick that decided is a line, and the lines say all that it was made from."""
    traffic = Traffic(a_service(prefill=RANGE, decode=RANGE), Split(1, 1))
    for load in (2, 30, 60, 10):
        traffic.play(load, count=80)

    again = list(replay(made.ledger for made in traffic.ticks if made.ledger))

    assert len(again) > 300
    assert {each.service for each in again} == {"ns/demo"}
    assert len({(each.decision.split.prefill, each.decision.split.decode) for each in again}) > 1
    for each in again:
        assert each.recorded is not None
        split = each.decision.split
        assert each.recorded["split"] == {"prefill": split.prefill, "decode": split.decode}


def test_without_a_router_that_answers_nothing_is_wanted() -> None:
    """An old choice is not held on to."""
    traffic = Traffic(a_service(prefill=RANGE, decode=RANGE), Split(1, 1))
    traffic.play(60, count=20)
    chosen = replace(traffic.balance, wanted=traffic.balance.wanted)
    facts = Facts(now=NOON, seconds=5.0, routers=[], workers=Split(1, 1), paid=Split(1, 1))

    made = tick(traffic.service, chosen, facts, can_flip=True)

    assert (made.reason, made.balance.wanted, made.ledger) == ("NoSignal", None, None)


def test_before_a_worker_was_measured_nothing_is_chosen() -> None:
    """Demand without a known speed moves nothing; without demand the speed is not needed."""
    service = a_service(prefill={**RANGE, "minReplicas": 0}, decode={**RANGE, "minReplicas": 0})

    def facts(requests: int) -> Facts:
        sums = (requests, 0.0, 0.0, 0.0, 0.0, 0.0)
        return Facts(
            now=NOON,
            seconds=5.0,
            routers=[RouterReading("r", sums)],
            workers=Split(1, 1),
            paid=Split(1, 1),
        )

    busy = quiet = Balance()
    for index in range(60):
        made = tick(service, busy, facts(index), can_flip=True)
        busy = made.balance
        quiet = tick(service, quiet, facts(0), can_flip=True).balance

    assert (made.reason, busy.wanted) == ("NoFit", None)
    assert quiet.wanted is not None
    assert (quiet.wanted.prefill, quiet.wanted.decode) == (0, 0)


@pytest.mark.parametrize("open_request", [{"backlog": 1}, {"decoding": 1}])
def test_a_request_at_zero_brings_the_first_workers(open_request: dict[str, int]) -> None:
    """At once, whatever was measured before; both roles, as the resource asks."""
    service = a_service(prefill={**RANGE, "minReplicas": 0}, decode={**RANGE, "minReplicas": 0})
    traffic = Traffic(service, Split(0, 0))
    traffic.play(0, count=2)
    assert traffic.split == Split(0, 0)

    traffic.play(1, **open_request)

    assert traffic.split == Split(1, 1)
    assert traffic.balance.decisions[0].reason == "FromZero"


def test_a_role_with_a_number_is_left_alone() -> None:
    """`replicas` stops the planner for that role, not for the other."""
    service = a_service(prefill={"replicas": 2}, decode=RANGE)
    traffic = Traffic(service, Split(2, 1))
    traffic.play(40, output=200, count=60)

    assert traffic.split.prefill == 2
    assert traffic.split.decode > 1


@pytest.mark.parametrize(
    ("changes", "planned"),
    [
        ({}, False),
        ({"decode": RANGE}, True),
        ({"decode": RANGE, "rebalancing": {"mode": "Recommend"}}, True),
        ({"decode": RANGE, "rebalancing": {"mode": "Off"}}, False),
        ({"decode": RANGE, "suspend": "Enabled"}, False),
    ],
)
def test_who_is_planned(changes: dict[str, Any], planned: bool) -> None:
    """Services with a range, unless somebody said no."""
    service = a_service(**changes)
    assert is_planned(service) is planned
    traffic = Traffic(service, Split(1, 1))
    traffic.play(80, output=100, count=60)
    assert (traffic.split != Split(1, 1)) is planned


def test_bounds_come_from_the_resource() -> None:
    """Ranges, budget, prices, ratio and flips."""
    service = a_service(
        prefill={"minReplicas": 2, "maxReplicas": 5},
        decode={"replicas": 3},
        capacity={"maxAccelerators": 7, "minPrefillPerDecodePercent": 50},
        cost={"acceleratorHourly": "2.5", "ceilingPerMillionTokens": "0.4"},
        objectives={"ttftMilliseconds": 300, "percentile": 90},
    )
    found = limits(service, can_flip=True)

    assert (found.min_prefill, found.max_prefill, found.fixed_prefill) == (2, 5, None)
    assert (found.min_decode, found.max_decode, found.fixed_decode) == (3, 3, 3)
    assert (found.max_workers, found.min_prefill_percent, found.flips) == (7, 50, True)
    assert (found.dollars_per_worker_hour, found.ceiling_per_million_tokens) == (2.5, 0.4)
    assert not limits(service, can_flip=False).flips
    goals = objectives(service)
    assert (goals.ttft_seconds, goals.tpot_seconds, goals.percentile) == (0.3, 0.1, 0.9)


def test_processes_that_answer_are_never_the_forgotten_ones() -> None:
    """A router that lives long, among many that came and went, is not taken for a new one."""
    service = a_service(prefill=RANGE, decode=RANGE)
    balance = Balance()
    for number in range(REMEMBERED_PROCESSES + 10):
        routers = [
            RouterReading("old", (float(number),) * 6),
            RouterReading(f"r{number}", (0.0,) * 6),
        ]
        facts = Facts(NOON, 5.0, routers, Split(1, 1), Split(1, 1))
        balance = tick(service, balance, facts, can_flip=True).balance

    assert len(balance.readings) == REMEMBERED_PROCESSES
    assert balance.readings["old"].sums[0] == REMEMBERED_PROCESSES + 9


def test_one_slot_wakes_up_with_a_decode_worker() -> None:
    """It serves alone."""
    zero = {"minReplicas": 0, "maxReplicas": 1}
    service = a_service(prefill=zero, decode=zero, capacity={"maxAccelerators": 1})
    assert wake_up(service) == (0, 1)


def test_realised_figures_are_written_once_their_time_has_come() -> None:
    """Not before five minutes, and never again."""
    traffic = Traffic(a_service(prefill=RANGE, decode=RANGE), Split(1, 1))
    traffic.play(60, count=30)
    first = traffic.balance.decisions[-1]
    assert first.realised is None
    while traffic.now < first.time + REALISED_AFTER:
        traffic.play(60)
    written = traffic.balance.decisions[-1].realised
    traffic.play(20, count=10)

    assert written is not None
    assert traffic.balance.decisions[-1].realised == written


@pytest.mark.parametrize(
    ("amount", "text"),
    [(12.345, "12.35"), (0.04321, "0.0432"), (0.5, "0.500"), (1e-8, "0.000000010"), (0.0, "0")],
)
def test_prices_have_three_digits_that_count(amount: float, text: str) -> None:
    """Small ones too; never more than the API takes."""
    assert dollars(amount) == text


@pytest.mark.parametrize(
    ("seconds", "whole"), [(None, None), (float("inf"), None), (0.0001, 1), (0.0426, 43)]
)
def test_milliseconds_are_whole(seconds: float | None, whole: int | None) -> None:
    """A latency that is no number is not told."""
    assert milliseconds(seconds) == whole

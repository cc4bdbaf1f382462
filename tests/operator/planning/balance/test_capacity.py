"""What a worker can do follows from its step times; queues follow Erlang's formula."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard_operator.planning.balance.capacity import (
    Capacity,
    Demand,
    _erlang_c,
    decode_workers,
    prefill_workers,
)
from steelyard_operator.planning.balance.signals import Objectives

CAPACITY = Capacity(
    prefill_tokens_per_second=10_000,
    prefill_overhead_seconds=0.0,
    step_seconds=0.010,
    step_seconds_per_sequence=0.0001,
    step_seconds_per_token=0.0,
    kv_tokens=1_000_000,
    max_sequences=1000,
)
OBJECTIVES = Objectives(ttft_seconds=1.0, tpot_seconds=0.020)


def demand(requests: float, *, length: float = 1000.0, output: float = 100.0) -> Demand:
    return Demand(requests, requests * length, 1.0, requests * output, length)


@pytest.mark.parametrize(
    ("count", "load", "share"),
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (5, 4.0, 0.5541), (10, 8.0, 0.4092)],
)
def test_the_share_that_waits_is_erlangs(count: int, load: float, share: float) -> None:
    """Values of printed tables of Erlang C."""
    assert _erlang_c(count, load) == pytest.approx(share, abs=1e-4)


def test_decode_is_as_full_as_the_objective_allows() -> None:
    """A step of 20 ms has 100 sequences, so a worker makes 5,000 tokens a second."""
    assert CAPACITY.sequences_within(0.020, 1000.0) == 100
    assert decode_workers(demand(40.0), CAPACITY, OBJECTIVES) == 1  # 4,000 tokens a second
    assert decode_workers(demand(60.0), CAPACITY, OBJECTIVES) == 2


def test_the_cache_bounds_decode_as_well() -> None:
    """Long contexts fill the cache before steps become slow."""
    assert CAPACITY.sequences_within(0.020, 50_000.0) == 20


def test_prefill_has_room_for_its_queue() -> None:
    """At 95 % of one worker, prompts of 0.1 s wait longer than 0.8 s too often."""
    assert prefill_workers(demand(5.0), CAPACITY, OBJECTIVES) == 1
    assert prefill_workers(demand(9.5), CAPACITY, OBJECTIVES) == 2


def test_a_step_of_several_prompts_has_its_overhead_once() -> None:
    """Eight prompts of 128 tokens are a step of 1,024; alone, each would cost the overhead."""
    alone = replace(CAPACITY, prefill_overhead_seconds=0.1)
    together = replace(alone, prefill_step_tokens=1024)

    assert alone.prefill(8 * 128, 8) == pytest.approx(8 * 0.1 + 0.1024)
    assert together.prefill(8 * 128, 8) == pytest.approx(0.1 + 0.1024)
    assert together.prefill_alone(128) == alone.prefill_alone(128)
    assert together.prefill_alone(3000) == pytest.approx(3 * 0.1 + 0.3)
    many = demand(30.0, length=128.0)
    assert prefill_workers(many, alone, OBJECTIVES) == 4
    assert prefill_workers(many, together, OBJECTIVES) == 2


def test_nothing_needs_nobody() -> None:
    """Scale to zero is the limits' business."""
    assert prefill_workers(demand(0.0), CAPACITY, OBJECTIVES) == 0
    assert decode_workers(demand(0.0), CAPACITY, OBJECTIVES) == 0


@given(st.floats(0.1, 500), st.floats(1.0, 3.0))
def test_more_demand_never_needs_fewer(requests: float, factor: float) -> None:
    """Both roles grow with the arrivals."""
    low, high = demand(requests), demand(requests * factor)

    assert prefill_workers(low, CAPACITY, OBJECTIVES) <= prefill_workers(high, CAPACITY, OBJECTIVES)
    assert decode_workers(low, CAPACITY, OBJECTIVES) <= decode_workers(high, CAPACITY, OBJECTIVES)


def test_an_objective_below_the_step_itself_leaves_one_sequence() -> None:
    """Also where more sequences cost nothing more: no number keeps it, one comes nearest."""
    capacity = Capacity(1000, 0.0, 0.1, 0.0, 0.0, 100_000, 32)

    assert capacity.sequences_within(0.001, 200) == 1
    assert capacity.sequences_within(0.1, 200) == 1
    assert capacity.sequences_within(0.2, 200) == 32

"""What planning costs where a resource asks for very much: what there is, not what is asked for."""

import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.api.plan_status import MOST_PLANNED_PODS
from steelyard_operator.planning.actions import CreatePod
from steelyard_operator.planning.balance.capacity import Capacity, Demand, prefill_workers
from steelyard_operator.planning.balance.signals import Objectives
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import MOST_IN_FLIGHT, Observed, Pod, WorkerState
from steelyard_operator.planning.planner import CREATIONS_IN_A_PASS, plan
from steelyard_operator.planning.slots import free_slots
from steelyard_operator.planning.status import status
from steelyard_operator.planning.transaction import advance
from steelyard_operator.testing import a_service, pod

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WANT = Desired(prefill=1, decode=1, prefill_revision="a", decode_revision="a")
MANY = 4096
# Generous: the loop is another service's, too, and took seconds before.
PATIENCE_SECONDS = 5.0


@contextmanager
def cheap(mebibytes: int = 8) -> Iterator[None]:
    """Fail where the block takes much memory at any moment, or long."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < mebibytes << 20
    assert time.process_time() - began < PATIENCE_SECONDS


def fleet(revision: str, start: int = 0) -> list[Pod]:
    """As many ready workers of each role as a role may have."""
    return [
        replace(pod(start + slot), revision=revision, fingerprint="f", roles=frozenset((role,)))
        for slot, role in zip(range(2 * MANY), (Role.PREFILL, Role.DECODE) * MANY, strict=True)
    ]


@pytest.mark.parametrize("slots", [None, 10_000_000])
def test_a_pass_makes_a_bounded_number_of_pods(slots: int | None) -> None:
    """A million are not listed before the first is made, and no role waits for the other."""
    want = replace(WANT, prefill=1_000_000, decode=1_000_000, slots=slots)

    with cheap():
        made = [a for a in plan(want, Observed(), NOW).actions if isinstance(a, CreatePod)]

    assert [action.slot for action in made] == list(range(CREATIONS_IN_A_PASS))
    assert {sum(a.role is role for a in made) for role in (Role.PREFILL, Role.DECODE)} == {
        CREATIONS_IN_A_PASS // 2
    }


def test_one_role_alone_may_use_the_whole_pass() -> None:
    """The share of a role that lacks nothing is the other's."""
    want = replace(WANT, prefill=0, decode=1000)

    made = [a for a in plan(want, Observed(), NOW).actions if isinstance(a, CreatePod)]

    assert len(made) == CREATIONS_IN_A_PASS


def test_slots_are_counted_and_not_listed() -> None:
    """A pod beyond the budget keeps the highest slots free, however many there are."""
    seen = Observed(pods=(pod(0), pod(2), pod(20_000_000)), foreign_slots=frozenset((3,)))
    want = replace(WANT, slots=10_000_000)

    with cheap():
        free = free_slots(want, seen)
        first = [next(free) for _ in range(3)]

    assert first == [1, 4, 5]
    small = Observed(pods=(pod(0), pod(9)))
    assert list(free_slots(replace(WANT, slots=4), small)) == [1, 2]


@pytest.mark.parametrize(
    "want",
    [
        replace(WANT, prefill=MANY, decode=MANY),
        replace(WANT, prefill=0, decode=0),
        replace(WANT, prefill=MANY, decode=MANY, max_unavailable=MANY, max_surge=MANY),
    ],
    ids=["steady", "all go", "all at once"],
)
def test_a_pass_over_the_largest_fleet_does_not_hold_the_loop(want: Desired) -> None:
    """A rollout of 8,192 workers is looked through once, not once a worker."""
    seen = Observed(pods=tuple(fleet("a") + fleet("b", 2 * MANY)))

    with cheap(mebibytes=64):
        plan(want, seen, NOW)


def test_the_search_for_workers_is_bounded() -> None:
    """No number of workers keeps the objective: that is known after one look at each."""
    demand = Demand(1e5, 1e9, 1.0, 1e5, 1000.0)
    hopeless = Objectives(ttft_seconds=1e-9, tpot_seconds=0.1, percentile=1.0)
    one = Capacity(2e5, 0.0, 0.01, 0.001, 0.0, 10_000, 64)

    with cheap():
        assert prefill_workers(demand, one, hopeless) > 5_000


def test_a_plan_moves_no_more_workers_than_a_status_can_name() -> None:
    """The rest moves with the next plan."""
    pods = tuple(
        replace(pod(slot), revision="a", roles=frozenset((Role.DECODE,))) for slot in range(MANY)
    )
    states = {each.uid: WorkerState("ready", 1, Role.DECODE) for each in pods}
    want = replace(WANT, prefill=MANY // 2, decode=MANY // 2, flip=True)

    turn = advance(want, Observed(pods=pods, states=states), None, now=NOW, epoch=1)

    assert turn.plan is not None
    assert len(turn.plan.pods) == MOST_PLANNED_PODS


def test_requests_of_very_many_workers_fit_into_a_status() -> None:
    """Each may claim a million."""
    pods = tuple(fleet("a"))
    states = {each.uid: WorkerState("ready", MOST_IN_FLIGHT, Role.DECODE) for each in pods}

    told = status(
        a_service(),
        generation=1,
        want=WANT,
        seen=Observed(pods=pods, states=states),
        previous=None,
        url="http://demo",
        now=NOW,
    )

    assert told.decode is not None
    assert told.decode.in_flight == 2**31 - 1

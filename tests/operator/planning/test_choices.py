"""Wanted splits: followed inside the resource's bounds, as one plan, or only told."""

from datetime import timedelta
from typing import Any

import pytest

from steelyard_operator.api.plan_status import PlanKind, PlanState
from steelyard_operator.planning.split import WantedSplit
from steelyard_operator.testing.world import a_world, acts, ask, run

RANGE = {"minReplicas": 1, "maxReplicas": 6}


def test_a_balanced_service_flips_adds_and_removes_as_one_plan() -> None:
    """One plan from the choice to the last worker; afterwards the cooldown holds the next one."""
    ranged = {"prefill": RANGE, "decode": RANGE}
    world = a_world((1, 3), spare=1, **ranged)
    world.wanted = WantedSplit(3, 2, message="prompts grow")

    run(world, 3, 2)

    assert [each.state for each in world.history] == [PlanState.RUNNING, PlanState.COMPLETED]
    assert world.history[0].message == (
        "prefill+decode workers from 1+3 to 3+2, 1 by a flip: prompts grow"
    )
    world.wanted = WantedSplit(1, 4)
    rest = world.want(world.view(), world.cluster.now)
    assert (rest.prefill, rest.decode, rest.split) == (3, 2, None)
    later = world.want(world.view(), world.cluster.now + timedelta(seconds=61))
    assert (later.prefill, later.decode) == (1, 4)


def test_an_added_worker_without_a_node_rolls_the_plan_back() -> None:
    """After `pendingDeadlineSeconds` the target is again what there was."""
    ranged = {"prefill": RANGE, "decode": RANGE}
    world = a_world((1, 1), spare=2, **ranged, rollout={"pendingDeadlineSeconds": 60})
    world.cluster.nodes_are_full = True
    world.wanted = WantedSplit(1, 2)
    for _ in range(200):
        for act in acts(world, world.view(), epoch=1):
            act()
        world.cluster.live()
        if world.history and world.history[-1].state is PlanState.ROLLED_BACK:
            world.wanted = None
        if world.wanted is None and world.serves(1, 1):
            break

    assert world.serves(1, 1)
    assert world.history[-1].message == "demo-2 finds no node: no node fits"


def test_recommend_writes_the_plan_and_moves_nothing() -> None:
    """The choice is in the status, once; workers and target stay."""
    ranged = {"prefill": RANGE, "decode": RANGE}
    world = a_world((1, 2), **ranged, rebalancing={"mode": "Recommend"})
    world.wanted = WantedSplit(2, 1)
    for _ in range(10):
        for act in acts(world, world.view(), epoch=1):
            act()
        world.cluster.live()

    assert world.serves(1, 2)
    (told,) = world.history
    assert (told.state, told.kind) == (PlanState.RECOMMENDED, PlanKind.FLIP)
    assert (told.target.prefill, told.target.decode, told.pods) == (2, 1, [])


@pytest.mark.parametrize(
    "spec",
    [
        {"rebalancing": {"mode": "Off"}, "prefill": RANGE, "decode": RANGE},
        {},
        {"prefill": RANGE, "decode": RANGE, "capacity": {"maxAccelerators": 3}},
    ],
    ids=["off", "fixed", "beyond the budget"],
)
def test_a_choice_that_may_not_be_followed_changes_nothing(spec: dict[str, Any]) -> None:
    """`mode: Off`, fixed replicas and the budget stand above what is wanted."""
    world = a_world((1, 2), **spec)
    world.wanted = WantedSplit(3, 3)
    for _ in range(5):
        for act in acts(world, world.view(), epoch=1):
            act()
        world.cluster.live()

    assert world.serves(1, 2)
    assert world.history == []


def test_without_flips_a_split_is_reached_by_adding_and_removing() -> None:
    """`rebalancing.flip: Disabled` costs new pods."""
    world = a_world((1, 2), spare=1, rebalancing={"flip": "Disabled"})
    ask(world, 2, 1)

    run(world, 2, 1)

    assert world.cluster.made == 1
    assert world.history == []

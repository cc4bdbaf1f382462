"""Flips that meet a rollout, a worker that does not drain, or one that is another afterwards."""

from dataclasses import replace
from datetime import datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_operator.api.plan_status import PlanState, PlanStatus
from steelyard_operator.planning.actions import Plan, SetRole
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.planner import plan
from steelyard_operator.planning.split import WantedSplit
from steelyard_operator.testing.world import a_world, acts, ask, run

RANGE = {"minReplicas": 1, "maxReplicas": 6}
SEEDS = st.integers(0, 10**6)


def test_a_flip_waits_for_a_rollout_and_a_rollout_for_no_flip() -> None:
    """While old workers are replaced the new ones get the new split; nothing is flipped."""
    world = a_world((1, 2), spare=2)
    world.cluster.start(1, 2, revision="old")
    ask(world, 2, 1)

    run(world, 2, 1)

    assert world.history == []
    assert {each.revision for each in world.cluster.pods.values()} == {"new"}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 12), SEEDS)
def test_a_rollout_that_begins_in_a_flip_ends_as_wanted(steps: int, seed: int) -> None:
    """Whatever the flip has done by then, all workers are of the new revision at the end."""
    world = a_world((1, 3), spare=1, seed=seed)
    world.cluster.pods = {
        name: replace(each, revision="old", fingerprint="a" * 16)
        for name, each in world.cluster.pods.items()
    }
    world.cluster.states = {
        uid: replace(each, fingerprint="a" * 64) for uid, each in world.cluster.states.items()
    }
    world.revision = "old"
    ask(world, 2, 2)
    for _ in range(steps):
        for act in acts(world, world.view(), epoch=1):
            act()
        world.cluster.live()
    world.revision = "new"

    run(world, 2, 2)

    def replaced() -> bool:
        return {each.revision for each in world.cluster.pods.values()} == {"new"}

    for _ in range(400):
        if replaced() and world.serves(2, 2):
            break
        for act in acts(world, world.view(), epoch=1):
            act()
        world.cluster.live()
    assert replaced()


def test_a_worker_that_does_not_drain_goes_back() -> None:
    """At the deadline the plan is rolled back; ranges then keep the split that there was."""
    ranged = {"prefill": RANGE, "decode": RANGE}
    world = a_world((1, 2), **ranged)
    world.wanted = WantedSplit(2, 1)
    stuck = {uid: replace(s, in_flight=10**6) for uid, s in world.cluster.states.items()}
    world.cluster.states = stuck
    for _ in range(5000):
        for act in acts(world, world.view(), epoch=1):
            act()
        world.cluster.live()
        if world.history and world.history[-1].state is PlanState.ROLLED_BACK:
            world.wanted = None
        if world.wanted is None and world.serves(1, 2):
            break

    assert world.serves(1, 2)
    back = world.history[-1]
    assert back.message.endswith("had 65 s to change its role")
    assert (back.target.prefill, back.target.decode) == (1, 2)


def test_a_worker_with_another_fingerprint_is_not_labelled() -> None:
    """It would pair with nobody: the plan is rolled back before a router sees it."""
    world = a_world((1, 2))
    ask(world, 2, 1)

    def changed(want: Desired, seen: Observed, now: datetime, running: PlanStatus | None) -> Plan:
        made = plan(want, seen, now, running)
        for action in made.actions:
            if isinstance(action, SetRole):
                uid = action.pod.uid
                other = replace(world.cluster.states[uid], fingerprint="e" * 64)
                world.cluster.states[uid] = other
        return made

    for _ in range(40):
        for act in acts(world, world.view(), epoch=1, planner=changed):
            act()
        world.cluster.live()
        if world.history and world.history[-1].state is PlanState.ROLLED_BACK:
            break

    assert "has another fingerprint now" in world.history[-1].message

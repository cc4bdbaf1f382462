"""Flips on a model cluster: whoever dies, whenever, the split is reached inside the budget."""

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_operator.api.plan_status import PlanKind, PlanState, PlanStatus
from steelyard_operator.planning.actions import CreatePod, DeletePod, Plan, StartDrain
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.planner import plan, serving
from steelyard_operator.testing.world import D, P, Planner, World, a_world, acts, ask, run, uids

COUNTS = st.integers(1, 4)
SEEDS = st.integers(0, 10**6)


@pytest.mark.parametrize(("had", "asked"), [((1, 3), (2, 2)), ((3, 1), (1, 3)), ((2, 1), (1, 2))])
def test_a_new_split_of_as_many_workers_restarts_none(
    had: tuple[int, int], asked: tuple[int, int]
) -> None:
    """The same pods serve afterwards, in a budget without room, and the plan tells it."""
    world = a_world(had)
    before = uids(world)
    ask(world, *asked)

    run(world, *asked)

    assert uids(world) == before
    assert world.cluster.made == 0
    assert [each.state for each in world.history] == [PlanState.RUNNING, PlanState.COMPLETED]
    done = world.history[-1]
    assert done.kind is PlanKind.FLIP
    assert len(done.pods) == abs(had[0] - asked[0])
    assert (done.target.prefill, done.target.decode) == asked


def test_what_a_flip_does_comes_in_order() -> None:
    """Label off, drain, role, label on: one step a pass, read off the facts."""
    world = a_world((1, 2))
    ask(world, 2, 1)
    names: list[str] = []
    for _ in range(60):
        view = world.view()
        for act in acts(world, view, epoch=1, planner=recording(names)):
            act()
        world.cluster.live()
        if world.serves(2, 1):
            break

    assert names == ["StartDrain", "RequestDrain", "SetRole", "LabelPod"]


def recording(names: list[str]) -> Planner:
    """Return the planner, which also notes what it asks for, once."""

    def noted(want: Desired, seen: Observed, now: datetime, running: PlanStatus | None) -> Plan:
        made = plan(want, seen, now, running)
        for action in made.actions:
            if type(action).__name__ not in names:
                names.append(type(action).__name__)
        return made

    return noted


@settings(max_examples=150, deadline=None)
@given(st.tuples(COUNTS, COUNTS), st.tuples(COUNTS, COUNTS), st.integers(0, 2), SEEDS)
def test_every_split_is_reached_by_two_operators_with_old_views(
    had: tuple[int, int], asked: tuple[int, int], spare: int, seed: int
) -> None:
    """Flips, adds and removals together; operators die anywhere; the budget holds throughout."""
    world = a_world(had, seed=seed)
    world.spec["capacity"] = {"maxAccelerators": max(sum(had), sum(asked)) + spare}
    ask(world, *asked)

    run(world, *asked, planners=2)


FAULTS = ("fail", "restart", "delete")


@settings(max_examples=150, deadline=None)
@given(st.tuples(COUNTS, COUNTS), st.booleans(), st.sampled_from(FAULTS), SEEDS)
def test_any_worker_may_die_at_any_time(
    had: tuple[int, int], more_prefill: bool, fault: str, seed: int
) -> None:
    """Donor, peer or bystander: what is missing is made again and the split is reached."""
    world = a_world(had, spare=1, seed=seed)
    asked = (had[0] + 1, had[1] - 1) if more_prefill else (had[0] - 1, had[1] + 1)
    if min(asked) < 1:
        return
    ask(world, *asked)
    left = [2]

    def faulty(want: Desired, seen: Observed, now: datetime, running: PlanStatus | None) -> Plan:
        if left[0] and world.cluster.dice.random() < 0.3:
            left[0] -= 1
            getattr(world.cluster, fault)(world.cluster.dice.choice(sorted(uids(world))))
        return plan(want, seen, now, running)

    run(world, *asked, planners=2, planner=faulty)


@pytest.mark.parametrize("after", [False, True])
def test_the_operator_may_die_at_each_step_of_a_flip(after: bool) -> None:
    """Before and after the k-th write, for every k: a fresh one goes on, no pod is restarted."""
    k, ended = 0, False
    while not ended:
        world = a_world((1, 3))
        before = uids(world)
        ask(world, 2, 2)
        count = 0
        for _ in range(400):
            for act in acts(world, world.view(), epoch=1 + count // (k + 1)):
                if count == k and not after:
                    count += 1
                    break
                act()
                count += 1
                if count == k + 1 and after:
                    break
            world.cluster.live()
            if world.serves(2, 2):
                break
        assert world.serves(2, 2), f"died at write {k}: {world.status.plan}"
        assert uids(world) == before
        ended, k = count <= k, k + 1
    assert k > 5, "the flow has fewer writes than a flip has steps"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("whose", ["donor", "receiver", "peer"])
def test_a_worker_may_die_at_each_step_of_a_flip(whose: str, fault: str) -> None:
    """For every k: the k-th write is preceded by a death; the split is reached all the same."""
    k, ended = 0, False
    while not ended:
        world = a_world((1, 3), spare=1)
        ask(world, 2, 2)
        count = 0
        for _ in range(600):
            for act in acts(world, world.view(), epoch=1):
                if count == k and (uid := victim(world, whose)):
                    getattr(world.cluster, fault)(uid)
                act()
                count += 1
            world.cluster.live()
            if world.serves(2, 2):
                break
        assert world.serves(2, 2), f"{whose} died at write {k}: {world.status.plan}"
        ended, k = count <= k, k + 1


def victim(world: World, whose: str) -> str | None:
    """Return who dies: the worker that changes its role, one of its new role, one of its old."""
    running = world.status.plan
    donors = set(running.pods) if running else set()
    if whose == "donor":
        return next(iter(donors), None)
    role = P if whose == "receiver" else D
    others = (e.uid for e in world.cluster.pods.values() if role in e.roles and e.uid not in donors)
    return next(others, None)


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.integers(2, 4), SEEDS)
def test_a_role_never_has_fewer_ready_workers_than_it_will_have(
    prefill: int, decode: int, seed: int
) -> None:
    """Only what is too many leaves: the smaller number always serves."""
    world = a_world((prefill, decode), seed=seed)
    ask(world, prefill + 1, decode - 1)

    def watched(want: Desired, seen: Observed, now: datetime, running: PlanStatus | None) -> Plan:
        now_seen = world.cluster.observe()
        assert len(serving(now_seen, D)) >= decode - 1
        assert len(serving(now_seen, P)) >= prefill
        return plan(want, seen, now, running)

    run(world, prefill + 1, decode - 1, planner=watched)


def test_a_planner_that_counts_only_running_pods_breaks_the_budget() -> None:
    """The properties can fail: this mutant is what others have shipped."""

    def mutant(want: Desired, seen: Observed, now: datetime, running: PlanStatus | None) -> Plan:
        running_pods = tuple(p for p in seen.pods if not p.deleting and p.phase == "Running")
        made = plan(replace(want, slots=None), replace(seen, pods=running_pods), now, running)
        used = {p.slot for p in seen.pods}
        free = [slot for slot in range(100) if slot not in used]
        return replace(
            made,
            actions=tuple(
                replace(a, slot=free.pop(0)) if isinstance(a, CreatePod) else a
                for a in made.actions
            ),
        )

    with pytest.raises(AssertionError, match="more pods than the budget holds"):
        for seed in range(50):
            world = a_world((1, 1), seed=seed)
            world.spec["capacity"] = {"maxAccelerators": 3}
            ask(world, 2, 1)
            run(world, 2, 1, planner=mutant)


def test_a_planner_that_forgets_workers_on_their_way_restarts_them() -> None:
    """This mutant plans without the plan: the drained worker is replaced instead of flipped."""

    def mutant(want: Desired, seen: Observed, now: datetime, running: PlanStatus | None) -> Plan:
        return plan(replace(want, flip=False), seen, now, None)

    world = a_world((1, 2), spare=1)
    ask(world, 2, 1)
    deleted: list[str] = []

    def noted(want: Desired, seen: Observed, now: datetime, running: PlanStatus | None) -> Plan:
        made = mutant(want, seen, now, running)
        deleted.extend(a.pod.uid for a in made.actions if isinstance(a, StartDrain | DeletePod))
        return made

    for _ in range(40):
        for act in acts(world, world.view(), epoch=1, planner=noted):
            act()
        world.cluster.live()

    assert deleted
    assert world.cluster.made > 0

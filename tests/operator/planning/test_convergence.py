"""Plans applied to a model cluster: they end where they should and cross no bound on the way."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_operator.api.names import Role
from steelyard_operator.planning.actions import CreatePod, DeletePod, Plan
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.planner import plan, serving
from steelyard_operator.testing import wanted
from steelyard_operator.testing.model import ModelCluster

Planner = Callable[[Desired, Observed, datetime], Plan]


def converged(want: Desired, seen: Observed) -> bool:
    """Whether exactly the wanted workers serve."""
    return len(seen.pods) == want.prefill + want.decode and all(
        len([p for p in serving(seen, role) if p.revision == want.revision(role)])
        == want.replicas(role)
        for role in (Role.PREFILL, Role.DECODE)
    )


def run(cluster: ModelCluster, want: Desired, planners: int, planner: Planner = plan) -> None:
    """Run planners with stale views until the service is as wanted."""
    views = [cluster.observe() for _ in range(planners)]
    for _ in range(600):
        number = cluster.dice.randrange(planners)
        if cluster.dice.random() < 0.7:
            views[number] = cluster.observe()
        for action in planner(want, views[number], cluster.now).actions:
            cluster.apply(action)
            if want.slots is not None:
                assert len(cluster.pods) <= want.slots, "more pods than the budget holds"
            if cluster.dice.random() < 0.1:
                break  # The operator dies here.
        cluster.live()
        if converged(want, cluster.observe()):
            return
    raise AssertionError(f"not converged: {cluster.observe().pods}")


COUNTS = st.integers(1, 4)


@settings(max_examples=150, deadline=None)
@given(
    had=st.tuples(COUNTS, COUNTS),
    asked=st.tuples(COUNTS, COUNTS),
    spare=st.integers(0, 2),
    down=st.integers(0, 2),
    first=st.integers(0, 9),
    seed=st.integers(0, 10**6),
)
def test_every_start_ends_as_wanted_within_the_budget(
    had: tuple[int, int], asked: tuple[int, int], *, spare: int, down: int, first: int, seed: int
) -> None:
    """Scaling and a rollout together, two operators on stale views, deaths at any step.

    There may have been no budget before, so that workers have numbers beyond it.
    """
    cluster = ModelCluster(random.Random(seed))
    cluster.start(*had, first_slot=first)
    slots = max(sum(had), sum(asked)) + spare
    surge = 1 if down == 0 else 0
    want = wanted(*asked, slots=slots, max_unavailable=down, max_surge=surge)

    run(cluster, want, planners=2)


@settings(max_examples=100, deadline=None)
@given(COUNTS, COUNTS, st.integers(0, 10**6))
def test_a_rollout_with_room_never_loses_a_ready_worker(
    prefill: int, decode: int, seed: int
) -> None:
    """With maxUnavailable 0 each role always has as many ready workers as asked for."""
    cluster = ModelCluster(random.Random(seed))
    cluster.start(prefill, decode)
    want = wanted(prefill, decode, max_unavailable=0, max_surge=1)

    def watched(target: Desired, seen: Observed, now: datetime) -> Plan:
        for role in (Role.PREFILL, Role.DECODE):
            assert len(serving(cluster.observe(), role)) >= target.replicas(role)
        return plan(target, seen, now)

    run(cluster, want, planners=1, planner=watched)


@settings(max_examples=100, deadline=None)
@given(COUNTS, COUNTS, st.integers(0, 10**6))
def test_no_worker_with_requests_is_deleted_before_its_deadline(
    prefill: int, decode: int, seed: int
) -> None:
    """A deletion finds an empty worker, or one whose time is over."""
    cluster = ModelCluster(random.Random(seed))
    cluster.start(prefill, decode)
    want = wanted(prefill, decode, drain_seconds=30)

    def watched(target: Desired, seen: Observed, now: datetime) -> Plan:
        made = plan(target, seen, now)
        for action in made.actions:
            if isinstance(action, DeletePod) and action.pod.uid in seen.states:
                late = now - (action.pod.draining_since or now) >= timedelta(seconds=30)
                assert seen.states[action.pod.uid].in_flight == 0 or late
        return made

    run(cluster, want, planners=1, planner=watched)


def test_a_planner_that_counts_only_running_pods_breaks_the_budget() -> None:
    """The property test can fail: it catches the mistake that others have made.

    The API server's unique names hold it too, so the mutant also picks its own names.
    """

    def mutant(want: Desired, seen: Observed, now: datetime) -> Plan:
        running = tuple(p for p in seen.pods if not p.deleting and p.phase == "Running")
        made = plan(replace(want, slots=None), replace(seen, pods=running), now)
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
            cluster = ModelCluster(random.Random(seed))
            cluster.start(1, 1)
            run(cluster, wanted(2, 2, slots=4), planners=1, planner=mutant)

"""Plans applied to a model cluster: they end where they should and cross no bound on the way."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_operator.api.names import Role
from steelyard_operator.planning.actions import (
    Action,
    CreatePod,
    DeletePod,
    LabelFingerprint,
    LabelPod,
    Plan,
    RequestDrain,
    Resume,
    StartDrain,
)
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed, Pod, Revision, WorkerState
from steelyard_operator.planning.planner import plan, serving
from steelyard_operator.testing import NOON, pod, wanted

Planner = Callable[[Desired, Observed, datetime], Plan]
REVISIONS = (Revision("demo-old", "old", 0), Revision("demo-new", "new", 1))


@dataclass
class Cluster:
    """A model of the API server, the kubelets and the workers."""

    dice: random.Random
    pods: dict[str, Pod] = field(default_factory=dict)
    states: dict[str, WorkerState] = field(default_factory=dict)
    now: datetime = NOON
    made: int = 0

    def observe(self) -> Observed:
        """Return the facts of this moment."""
        return Observed(tuple(self.pods.values()), dict(self.states), REVISIONS)

    def apply(self, action: Action) -> None:
        """Carry one action out as `kube/` does: names are unique, preconditions are checked."""
        if isinstance(action, CreatePod):
            name = f"demo-{action.slot}"
            if name in self.pods:
                return
            self.made += 1
            fresh = pod(
                action.slot, action.role, revision=action.revision, attempt=action.attempt,
                uid=f"uid-{self.made}", created_at=self.now, phase="Pending", ready=False,
                fingerprint=None, scheduled=False,
            )  # fmt: skip
            self.pods[name] = fresh
            return
        if not isinstance(
            action, StartDrain | DeletePod | RequestDrain | Resume | LabelPod | LabelFingerprint
        ):
            return
        living = self.pods.get(action.pod.name)
        if living is None or living.uid != action.pod.uid:
            return
        state = self.states.get(living.uid)
        match action:
            case StartDrain() if living.roles == action.pod.roles:
                changed = replace(living, roles=frozenset(), draining_since=self.now)
                self.pods[living.name] = self._next(changed)
            case RequestDrain() if state:
                self.states[living.uid] = replace(state, phase="draining")
            case Resume(role=role) if state and not living.roles:
                self.states[living.uid] = replace(state, phase="ready", role=role)
                changed = replace(living, roles=frozenset((role,)), draining_since=None)
                self.pods[living.name] = self._next(changed)
            case LabelFingerprint(fingerprint=digits):
                self.pods[living.name] = self._next(replace(living, fingerprint=digits))
            case DeletePod() if living.resource_version == action.pod.resource_version:
                self.pods[living.name] = self._next(replace(living, deleting=True, ready=False))

    def live(self) -> None:
        """Something happens: pods start, load, finish, end."""
        self.now += timedelta(seconds=self.dice.choice((0, 1, 5)))
        for name, each in list(self.pods.items()):
            if self.dice.random() < 0.5:
                continue
            state = self.states.get(each.uid)
            if each.deleting:
                del self.pods[name]
                self.states.pop(each.uid, None)
            elif each.phase == "Pending":
                self.pods[name] = self._next(replace(each, phase="Running", scheduled=True))
                role = next(iter(each.roles), Role.DECODE)
                self.states[each.uid] = WorkerState("loading", 0, role)
            elif state and state.phase == "loading":
                prints = {"old": "a" * 64, "new": "b" * 64}
                self.states[each.uid] = replace(
                    state, phase="ready", in_flight=self.dice.randint(0, 2),
                    fingerprint=prints[each.revision],
                )  # fmt: skip
                self.pods[name] = self._next(replace(each, ready=True))
            elif state and state.phase == "draining":
                left = max(0, state.in_flight - 1)
                phase = "draining" if left else "drained"
                self.states[each.uid] = replace(state, in_flight=left, phase=phase)

    def _next(self, changed: Pod) -> Pod:
        return replace(changed, resource_version=str(int(changed.resource_version) + 1))


def start(cluster: Cluster, prefill: int, decode: int) -> None:
    """Let the cluster hold a running service of the old revision."""
    slot = 0
    for role, count in ((Role.DECODE, decode), (Role.PREFILL, prefill)):
        for _ in range(count):
            uid = f"start-{slot}"
            cluster.pods[f"demo-{slot}"] = pod(
                slot, role, revision="old", uid=uid, fingerprint="a" * 16
            )
            cluster.states[uid] = WorkerState("ready", 1, role, "a" * 64)
            slot += 1


def converged(want: Desired, seen: Observed) -> bool:
    """Whether exactly the wanted workers serve."""
    return len(seen.pods) == want.prefill + want.decode and all(
        len([p for p in serving(seen, role) if p.revision == want.revision(role)])
        == want.replicas(role)
        for role in (Role.PREFILL, Role.DECODE)
    )


def run(cluster: Cluster, want: Desired, planners: int, planner: Planner = plan) -> None:
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
    st.tuples(COUNTS, COUNTS),
    st.tuples(COUNTS, COUNTS),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 10**6),
)
def test_every_start_ends_as_wanted_within_the_budget(
    had: tuple[int, int], asked: tuple[int, int], spare: int, down: int, seed: int
) -> None:
    """Scaling and a rollout together, two operators on stale views, deaths at any step."""
    cluster = Cluster(random.Random(seed))
    start(cluster, *had)
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
    cluster = Cluster(random.Random(seed))
    start(cluster, prefill, decode)
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
    cluster = Cluster(random.Random(seed))
    start(cluster, prefill, decode)
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
            cluster = Cluster(random.Random(seed))
            start(cluster, 1, 1)
            run(cluster, wanted(2, 2, slots=4), planners=1, planner=mutant)

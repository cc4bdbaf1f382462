"""Operators on a model cluster: a resource, a shared status, views that may be old."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from steelyard_operator.api.names import Role
from steelyard_operator.api.plan_status import PlanState, PlanStatus
from steelyard_operator.api.status import InferenceServiceStatus, RoleStatus
from steelyard_operator.planning.actions import Plan
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.desiring import desired
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.planner import plan, serving
from steelyard_operator.planning.split import WantedSplit
from steelyard_operator.planning.transaction import advance, settled
from steelyard_operator.testing import a_service
from steelyard_operator.testing.model import ModelCluster

P, D = Role.PREFILL, Role.DECODE
Planner = Callable[[Desired, Observed, datetime, PlanStatus | None], Plan]


@dataclass
class World:
    """A cluster, the resource, and the status that operators share."""

    cluster: ModelCluster
    spec: dict[str, Any]
    status: InferenceServiceStatus = field(default_factory=InferenceServiceStatus)
    version: int = 0
    wanted: WantedSplit | None = None
    revision: str = "new"
    history: list[PlanStatus] = field(default_factory=list)

    @property
    def slots(self) -> int:
        """The budget."""
        return int(self.spec["capacity"]["maxAccelerators"])

    def want(self, view: "View", now: datetime) -> Desired:
        """Return the target as an operator with a view comes to it."""
        return desired(
            a_service(**self.spec),
            view.status,
            view.seen,
            prefill_revision=self.revision,
            decode_revision=self.revision,
            deleting=False,
            can_flip=True,
            wanted=self.wanted,
            now=now,
        )

    def write(self, view: "View", target: Desired, made: PlanStatus | None) -> bool:
        """Write the status where nobody wrote it since; returns whether it was written."""
        if view.version != self.version:
            return False
        self.version += 1
        if made is not None and made != self.status.plan:
            self.history.append(made)
        self.status = InferenceServiceStatus(
            plan=made,
            prefill=RoleStatus(target_replicas=target.prefill),
            decode=RoleStatus(target_replicas=target.decode),
        )
        return True

    def view(self) -> "View":
        """Return what an operator sees now."""
        return View(self.cluster.observe(), self.status, self.version)

    def serves(self, prefill: int, decode: int) -> bool:
        """Whether exactly these workers serve, and nothing is under way."""
        seen = self.cluster.observe()
        running = self.status.plan is not None and self.status.plan.state is PlanState.RUNNING
        return (
            not running
            and sum(1 for each in seen.pods if each.phase != "Failed") == prefill + decode
            and (len(serving(seen, P)), len(serving(seen, D))) == (prefill, decode)
        )


@dataclass
class View:
    """What an operator believes; it may be old."""

    seen: Observed
    status: InferenceServiceStatus
    version: int


def acts(
    world: World, view: View, epoch: int, planner: Planner = plan
) -> Iterator[Callable[[], None]]:
    """Yield each write of one pass, to be called, or not, by who plays the operator."""
    now = world.cluster.now
    want = world.want(view, now)
    turn = advance(want, view.seen, view.status.plan, now=now, epoch=epoch)
    want = settled(want, turn)
    if turn.changed:
        written: list[bool] = []
        yield lambda: written.append(world.write(view, want, turn.plan))
        if written != [True]:
            return  # somebody else wrote, or this operator died
        view.status, view.version = world.status, world.version
    for action in planner(want, view.seen, now, turn.plan).actions:

        def act(action: Any = action) -> None:
            world.cluster.apply(action, epoch)
            assert len(world.cluster.pods) <= world.slots, "more pods than the budget holds"

        yield act
    world.write(view, want, turn.plan)


def run(
    world: World, prefill: int, decode: int, *, planners: int = 1, planner: Planner = plan
) -> None:
    """Let operators with old views act until exactly these workers serve."""
    dice = world.cluster.dice
    views = [world.view() for _ in range(planners)]
    for _ in range(800):
        number = dice.randrange(planners)
        if planners == 1 or dice.random() < 0.7:
            views[number] = world.view()
        for act in acts(world, views[number], epoch=number + 1, planner=planner):
            act()
            if dice.random() < 0.1:
                break  # the operator dies here
        world.cluster.live()
        if world.serves(prefill, decode):
            return
    raise AssertionError(f"not converged: {world.status.plan} {world.cluster.observe()}")


def a_world(had: tuple[int, int], spare: int = 0, seed: int = 0, **spec: Any) -> World:
    """Return a service that runs with so many prefill and decode workers."""
    cluster = ModelCluster(random.Random(seed))  # noqa: S311  # no secret
    cluster.start(*had, revision="new")
    limits = {"capacity": {"maxAccelerators": sum(had) + spare}}
    counts = {"prefill": {"replicas": had[0]}, "decode": {"replicas": had[1]}}
    status = InferenceServiceStatus(
        prefill=RoleStatus(target_replicas=had[0]), decode=RoleStatus(target_replicas=had[1])
    )
    return World(cluster, {**limits, **counts, **spec}, status)


def ask(world: World, prefill: int, decode: int) -> None:
    """Edit the resource's numbers."""
    world.spec |= {"prefill": {"replicas": prefill}, "decode": {"replicas": decode}}


def uids(world: World) -> set[str]:
    """Return who there is."""
    return {each.uid for each in world.cluster.pods.values()}

"""Writes what becomes of a plan before anything is done in its name, and times its flips.

The write carries the resource version of what the decision was made from: of two operators with
different views one writes, the other looks again.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from steelyard_operator.api.plan_status import PlanKind, PlanState
from steelyard_operator.api.status import InferenceServiceStatus, RoleStatus
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.errors import Changed, Conflict, NotFound
from steelyard_operator.kube.events import Happening
from steelyard_operator.kube.memory import Memory
from steelyard_operator.kube.metrics import FLIP_SECONDS, FLIPS
from steelyard_operator.kube.reporting import Reporting, plain
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.flip import Donor, Stand
from steelyard_operator.planning.transaction import Turn

log = logging.getLogger(__name__)

# What a worker was doing until it came to a stand.
PHASES = {
    Stand.UNDRAINED: "unlabel",
    Stand.DRAINING: "unlabel",
    Stand.DRAINED: "drain",
    Stand.CHANGED: "role",
    Stand.DONE: "label",
}


class Epochs(Protocol):
    """What orders plans."""

    @property
    def epoch(self) -> int:
        """The number that orders carry."""

    async def raise_epoch(self, above: int) -> None:
        """Make it greater than a number."""


class Transacting:
    """Begins and ends plans."""

    def __init__(
        self,
        reporting: Reporting,
        leadership: Epochs,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reporting = reporting
        self._leadership = leadership
        self._clock = clock

    @property
    def next_epoch(self) -> int:
        """The epoch of a plan that would begin now."""
        return self._leadership.epoch + 1

    async def write(
        self, raw: Raw, previous: InferenceServiceStatus | None, want: Desired, turn: Turn
    ) -> InferenceServiceStatus | None:
        """Write a plan that begins or ends; returns the status, or None where another was first.

        Args:
            raw: the resource as it was seen.
            previous: its status.
            want: the target that goes with the plan.
            turn: what becomes of it.
        """
        old = previous or InferenceServiceStatus()
        made = old.model_copy(
            update={
                "plan": turn.plan,
                "prefill": _aimed(old.prefill, want.prefill),
                "decode": _aimed(old.decode, want.decode),
            }
        )
        try:
            # Orders of the plan before, which may still be under way, are refused from here on.
            await self._leadership.raise_epoch(self._leadership.epoch)
            await self._reporting.write_exactly(raw, plain(made))
        except (Changed, Conflict, NotFound) as error:
            log.info("a plan was not written: %s", error)
            return None
        _count(turn)
        return made

    def watch(self, memory: Memory, donors: Sequence[Donor]) -> None:
        """Measure how long each step of a flip took, as far as this process saw it."""
        now = self._clock()
        for donor in donors:
            before = memory.stands.get(donor.uid)
            if before is not None and before[0] is donor.stand:
                continue
            phase = PHASES.get(donor.stand)
            if before is not None and phase is not None and PHASES.get(before[0]) != phase:
                FLIP_SECONDS.labels(phase).observe(now - before[1])
                memory.stands[donor.uid] = (donor.stand, now)
            elif before is None or phase is None:
                memory.stands[donor.uid] = (donor.stand, now)
        if not donors:
            memory.stands.clear()


def plan_events(turn: Turn) -> list[Happening]:
    """Return the event of a plan that began, ended, or was recommended."""
    if turn.plan is None or not turn.reason:
        return []
    bad = turn.plan.state is PlanState.ROLLED_BACK
    return [Happening(turn.reason, turn.plan.message, "Rebalancing", warning=bad)]


def _aimed(old: RoleStatus | None, target: int) -> RoleStatus:
    return (old or RoleStatus()).model_copy(update={"target_replicas": target})


def _count(turn: Turn) -> None:
    plan = turn.plan
    if plan is None or plan.kind is not PlanKind.FLIP:
        return
    results: dict[Any, str] = {
        PlanState.COMPLETED: "done",
        PlanState.ROLLED_BACK: "rolled_back",
    }
    if (result := results.get(plan.state)) is not None:
        FLIPS.labels(result).inc(len(plan.pods))

"""What one pass over a service comes to: its target, its plan, and what is done now. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from steelyard_operator.api.names import Role
from steelyard_operator.api.status import InferenceServiceStatus
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning.actions import Plan, StartDrain
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.desiring import desired
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.planner import only_finish, plan
from steelyard_operator.planning.split import WantedSplit
from steelyard_operator.planning.transaction import Turn, advance, settled


@dataclass(frozen=True, slots=True)
class Choice:
    """What a pass works towards, and what it does."""

    want: Desired
    turn: Turn
    plan: Plan

    @property
    def hangs_on_counts(self) -> bool:
        """Whether a worker was chosen to leave its role."""
        return self.turn.changed or any(isinstance(a, StartDrain) for a in self.plan.actions)


def decide(
    service: InferenceService,
    previous: InferenceServiceStatus | None,
    seen: Observed,
    *,
    revisions: Mapping[Role, str],
    served: bool,
    deleting: bool,
    can_flip: bool,
    now: datetime,
    epoch: int,
    wanted: WantedSplit | None = None,
) -> Choice:
    """Return the decision of one pass.

    Args:
        service: the resource.
        previous: its status.
        seen: the facts.
        revisions: the hash of what each role's workers are made from.
        served: whether this version can serve what is asked for.
        deleting: whether the resource is being deleted.
        can_flip: whether the engine can change a worker's role.
        now: the time.
        epoch: of a plan that would begin now.
        wanted: the split that was chosen for the service, if any.
    """
    want = desired(
        service,
        previous,
        seen,
        prefill_revision=revisions[Role.PREFILL],
        decode_revision=revisions[Role.DECODE],
        deleting=deleting,
        can_flip=can_flip and served,
        wanted=wanted if served else None,
        now=now,
    )
    turn = advance(want, seen, previous.plan if previous else None, now=now, epoch=epoch)
    want = settled(want, turn)
    planned = plan if served or deleting else only_finish
    return Choice(want, turn, planned(want, seen, now, turn.plan))

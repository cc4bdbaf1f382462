"""The change of a service's split, as its status keeps it. Data only.

The intent is written once before the first act and the outcome once at the end; the steps between
are read off the pods.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from steelyard_operator.api.maxima import Time
from steelyard_operator.api.meta import ATOMIC, ApiModel, Int32, Int64, ObjectName, Text

MOST_PLANNED_PODS = 1024
"""Workers that change their role in one plan: their uids take 40 kB of the status."""


class PlanKind(StrEnum):
    """What a plan changes."""

    SCALE = "Scale"
    FLIP = "Flip"
    ROLLOUT = "Rollout"


class PlanState(StrEnum):
    """What has become of a plan."""

    RECOMMENDED = "Recommended"  # nothing is done: `rebalancing.mode` is Recommend
    RUNNING = "Running"
    COMPLETED = "Completed"
    ROLLED_BACK = "RolledBack"


class Workers(ApiModel):
    """A number of workers of each role."""

    prefill: Int32
    """prefill workers."""

    decode: Int32
    """decode workers."""


class PlanStatus(ApiModel):
    """The change that is under way, or the last one; its steps are derived, never stored."""

    id: Annotated[str, Field(min_length=1, max_length=64)]
    """id of the plan."""

    state: PlanState = PlanState.RUNNING
    """state is Recommended, Running, Completed or RolledBack."""

    message: Text = ""
    """message is a sentence for people: what the plan changes, or why it was rolled back."""

    epoch: Int64
    """epoch orders plans; a worker refuses orders of an older one."""

    kind: PlanKind
    """kind of the change: Scale, Flip or Rollout."""

    source: Workers
    """source is what there was."""

    target: Workers
    """target is what there will be; once it was rolled back, what it came to."""

    pods: Annotated[
        list[ObjectName], Field(max_length=MOST_PLANNED_PODS, json_schema_extra=ATOMIC)
    ] = []
    """pods are the uids of the workers that change their role."""

    start_time: Time
    """startTime is when the plan was written."""

    deadline_time: Time
    """deadlineTime is when the plan is rolled back."""

    end_time: Time | None = None
    """endTime is when the plan was completed or rolled back."""

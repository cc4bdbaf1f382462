"""Budget slots: a pod's name holds a number, and a number below the budget.

A pod keeps its slot until it is gone from the API server, as it keeps its accelerator; unique names
then bound the pods whatever a stale cache says.
"""

from collections.abc import Iterator

from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed


def free_slots(want: Desired, seen: Observed) -> Iterator[int]:
    """Yield the slots that no pod holds, the lowest first; without a budget there is no end."""
    taken = {pod.slot for pod in seen.pods} | seen.foreign_slots
    slot = 0
    while want.slots is None or slot < want.slots:
        if slot not in taken:
            yield slot
        slot += 1

"""Budget slots: a pod's name holds a number, and a number below the budget.

A pod keeps its slot until it is gone from the API server, as it keeps its accelerator; unique names
then bound the pods whatever a stale cache says. A pod from before a budget was set or lowered may
have a number beyond it: for each such pod a slot stays free, the highest ones, so that stale caches
agree on which. A budget may be far larger than the number of pods: slots are counted, never listed.
"""

import itertools
from collections.abc import Iterator
from itertools import islice

from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed


def free_slots(want: Desired, seen: Observed) -> Iterator[int]:
    """Yield the slots that may be taken, the lowest first; without a budget there is no end."""
    taken = {pod.slot for pod in seen.pods} | seen.foreign_slots
    if want.slots is None:
        yield from (slot for slot in itertools.count() if slot not in taken)
        return
    inside = sum(0 <= slot < want.slots for slot in taken)
    beyond = sum(pod.slot >= want.slots for pod in seen.pods)
    left = max(0, want.slots - inside - beyond)
    yield from islice((slot for slot in range(want.slots) if slot not in taken), left)

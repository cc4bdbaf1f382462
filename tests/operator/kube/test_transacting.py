"""Plans are written once, by whoever is first, and their flips are counted and timed."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from steelyard_operator.api.plan_status import PlanKind, PlanState, PlanStatus, Workers
from steelyard_operator.kube.errors import Changed
from steelyard_operator.kube.memory import Memory
from steelyard_operator.kube.metrics import REGISTRY
from steelyard_operator.kube.reporting import Reporting
from steelyard_operator.kube.transacting import Transacting, plan_events
from steelyard_operator.planning.flip import Donor, Stand
from steelyard_operator.planning.transaction import Turn
from steelyard_operator.testing import NOON, wanted

pytestmark = pytest.mark.anyio

RAW = {"metadata": {"name": "demo", "namespace": "ns", "uid": "u", "resourceVersion": "7"}}
PLAN = PlanStatus(
    id="one",
    epoch=4,
    kind=PlanKind.FLIP,
    source=Workers(prefill=1, decode=2),
    target=Workers(prefill=2, decode=1),
    pods=["a"],
    start_time=NOON,
    deadline_time=NOON + timedelta(seconds=60),
)


@dataclass
class Api:
    """An API server that may have a newer version, and keeps what it was sent."""

    newer: bool = False
    sent: list[list[dict[str, Any]]] = field(default_factory=list)

    async def patch(self, *where: Any, subresource: str) -> dict[str, Any]:
        """Take a patch of the status."""
        self.sent.append(where[-1])
        if self.newer:
            raise Changed("the resource version is another")
        return RAW

    def put(self, answer: Any) -> None:
        """Take what a write answered."""


@dataclass
class Lease:
    """Epochs of a leader."""

    epoch: int = 3

    async def raise_epoch(self, above: int) -> None:
        """Make it greater."""
        self.epoch = max(self.epoch, above + 1)


def transacting(api: Api, lease: Lease, clock: Any = lambda: 0.0) -> Transacting:
    """Return the part under test on stand-ins."""
    reporting = Reporting(api, api, clock=lambda: 0.0)  # type: ignore[arg-type]  # what it uses of both
    return Transacting(reporting, lease, clock=clock)


async def test_a_plan_is_written_with_its_target_and_a_new_epoch() -> None:
    """The write tests the version that the decision was made from."""
    api, lease = Api(), Lease()
    part = transacting(api, lease)
    assert part.next_epoch == PLAN.epoch

    made = await part.write(RAW, None, wanted(2, 1), Turn(PLAN, changed=True))

    assert made is not None
    assert lease.epoch == PLAN.epoch
    (operations,) = api.sent
    assert {"op": "test", "path": "/metadata/resourceVersion", "value": "7"} in operations
    status = operations[-1]["value"]
    assert status["plan"]["pods"] == ["a"]
    assert [status[role]["targetReplicas"] for role in ("prefill", "decode")] == [2, 1]


async def test_who_comes_second_writes_nothing() -> None:
    """Another operator was first: nothing is counted, and nothing may be done."""
    before = flips("done")
    done = PLAN.model_copy(update={"state": PlanState.COMPLETED})

    written = await transacting(Api(newer=True), Lease()).write(
        RAW, None, wanted(2, 1), Turn(done, changed=True)
    )

    assert written is None
    assert flips("done") == before


@pytest.mark.parametrize(
    ("state", "result", "warning"),
    [(PlanState.COMPLETED, "done", False), (PlanState.ROLLED_BACK, "rolled_back", True)],
)
async def test_the_end_of_a_flip_is_counted_and_told(
    state: PlanState, result: str, warning: bool
) -> None:
    """By worker; a rollback is a warning."""
    before = flips(result)
    turn = Turn(PLAN.model_copy(update={"state": state, "message": "why"}), True, "FlipEnded")

    await transacting(Api(), Lease()).write(RAW, None, wanted(2, 1), turn)

    assert flips(result) == before + 1
    (told,) = plan_events(turn)
    assert (told.reason, told.note, told.warning) == ("FlipEnded", "why", warning)


async def test_each_step_is_timed_once() -> None:
    """Passes in which nothing moved add nothing."""
    times = iter((0.0, 1.0, 1.5, 2.0, 4.0, 4.5, 5.0))
    part, memory = transacting(Api(), Lease(), lambda: next(times)), Memory()
    before = {phase: seconds(phase) for phase in ("unlabel", "drain", "role", "label")}
    for stand in (
        Stand.BEFORE, Stand.UNDRAINED, Stand.DRAINING, Stand.DRAINING,
        Stand.DRAINED, Stand.CHANGED, Stand.DONE,
    ):  # fmt: skip
        part.watch(memory, [Donor("a", stand)])
    part_of = {phase: seconds(phase) - had for phase, had in before.items()}

    assert part_of == {"unlabel": 1.0, "drain": 3.0, "role": 0.5, "label": 0.5}


def flips(result: str) -> float:
    """Return the counter."""
    name = "steelyard_operator_flips_total"
    return REGISTRY.get_sample_value(name, {"result": result}) or 0.0


def seconds(phase: str) -> float:
    """Return the sum of a phase."""
    name = "steelyard_operator_flip_seconds_sum"
    return REGISTRY.get_sample_value(name, {"phase": phase}) or 0.0

"""Which services are read, how often, and what a tick sets going."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from steelyard_operator.api.names import SERVICE_LABEL
from steelyard_operator.kube.balancing import (
    AT_A_TIME,
    IDLE_AFTER_SECONDS,
    IDLE_TICK_SECONDS,
    TELL_SECONDS,
    Balancing,
)
from steelyard_operator.kube.informer import Store
from steelyard_operator.kube.metrics import REGISTRY
from steelyard_operator.kube.services import Services
from steelyard_operator.kube.token import MasterKey
from steelyard_operator.planning.balance.readings import RouterReading
from steelyard_operator.planning.observed import Pod, WorkerState
from steelyard_operator.planning.observing import pod_record
from steelyard_operator.testing.demand import step_sums

pytestmark = pytest.mark.anyio

KEY = ("ns", "u")
TICK = 5.0
RANGE = {"minReplicas": 1, "maxReplicas": 4}


class Caches:
    """A router's pod and two workers'."""

    def __init__(self) -> None:
        self.routers: Store[Pod] = Store(pod_record, label=SERVICE_LABEL)
        self.pods: Store[Pod] = Store(pod_record, label=SERVICE_LABEL)
        self.routers.put(pod_of("demo-router-x", {}, owner=None))
        for name, role in (("demo-0", "prefill"), ("demo-1", "decode")):
            self.pods.put(pod_of(name, {f"steelyard.dev/{role}": "true"}, owner="u"))

    async def synced(self) -> None:
        """Everything is read."""


def pod_of(name: str, labels: dict[str, str], owner: str | None) -> dict[str, Any]:
    """Return a pod that runs and is ready."""
    owners = [{"uid": owner, "kind": "InferenceService", "name": "demo", "controller": True}]
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T11:00:00Z",
            "labels": {SERVICE_LABEL: "demo", **labels},
            "ownerReferences": owners if owner else [],
        },
        "spec": {"nodeName": "node"},
        "status": {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "lastTransitionTime": "2026-01-01T11:00:20Z",
                }
            ],
        },
    }


class Rig:
    """A balance with a clock of its own; its router says what the test says."""

    def __init__(self, *, status: dict[str, Any] | None = None, **spec: Any) -> None:
        self.time = 1000.0
        self.sums = [0.0] * 6
        self.silent = self.broken = False
        self.read_at: list[float] = []
        self.asked_at: list[float] = []
        self.woken: list[float] = []
        self.ledger: list[str] = []
        self.services = Services("", lambda _: None)
        self.put(status, spec)
        self.balancing = Balancing(
            services=self.services,
            caches=Caches(),  # type: ignore[arg-type]  # what it reads of them
            workers=self,  # type: ignore[arg-type]  # the one method that is called
            routers=self,  # type: ignore[arg-type]  # likewise
            master_key=MasterKey(b"k" * 32),
            wake=lambda _: self.woken.append(self.time),
            ledger=self.ledger.append,
            tick_seconds=TICK,
            clock=lambda: self.time,
        )

    def put(
        self, status: dict[str, Any] | None, spec: dict[str, Any], version: int = 1, uid: str = "u"
    ) -> None:
        """Let the resource be so."""
        aimed = {"prefill": {"targetReplicas": 1}, "decode": {"targetReplicas": 1}}
        self.services.put(
            {
                "apiVersion": "steelyard.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {
                    "name": "demo",
                    "namespace": "ns",
                    "uid": uid,
                    "generation": version,
                    "resourceVersion": str(version),
                },
                "spec": {"model": {"uri": "file:///m"}, **spec},
                "status": aimed if status is None else status,
            }
        )

    async def readings(self, pods: Iterable[Pod]) -> list[RouterReading]:
        """Answer as the routers do."""
        assert [pod.name for pod in pods] == ["demo-router-x"]
        self.read_at.append(self.time)
        if self.broken:
            raise RuntimeError("broken")
        return [] if self.silent else [RouterReading("r", tuple(self.sums))]

    async def states(self, pods: Iterable[Pod], **_: Any) -> dict[str, WorkerState]:
        """Answer as the workers do."""
        self.asked_at.append(self.time)
        return {pod.uid: WorkerState("ready", 0, steps=step_sums()) for pod in pods}

    async def run(self, ticks: int, requests: float = 0.0) -> None:
        """Let ticks pass in which so many requests of 100 tokens in and 100 out come and end."""
        for _ in range(ticks):
            self.time += TICK
            came = (1, 100, 10_000, 1, 100, 200)
            self.sums = [a + requests * b for a, b in zip(self.sums, came, strict=True)]
            await self.balancing.tick_all()


async def test_demand_becomes_a_wanted_split_and_wakes_the_service() -> None:
    """And each tick of the planner is a line of the ledger."""
    rig = Rig(prefill=RANGE, decode=RANGE)
    await rig.run(40, requests=60)

    wanted = rig.balancing.wanted(KEY)
    assert wanted is not None
    assert wanted.prefill > 1
    assert rig.woken
    assert len(rig.ledger) == 39
    assert '"service":"ns/demo"' in rig.ledger[0]
    told = rig.balancing.measured(KEY)
    assert told is not None
    assert told.decisions[0].target.prefill == wanted.prefill


class Crowd(Rig):
    """A thousand services, and how many of them are read at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = self.most = 0
        for number in range(1000):
            self.put(None, {}, uid=f"u{number}")

    async def readings(self, pods: Iterable[Pod]) -> list[RouterReading]:
        """Answer a moment later."""
        self.reading += 1
        self.most = max(self.most, self.reading)
        await asyncio.sleep(0)
        self.reading -= 1
        return await super().readings(pods)


async def test_a_thousand_services_are_not_read_all_at_once() -> None:
    """All are read in one tick, and between two of them others get their turn."""
    rig = Crowd()
    await rig.run(1)

    assert len(rig.read_at) == 1001
    assert rig.most <= AT_A_TIME


async def test_a_service_without_a_target_is_left_alone() -> None:
    """How many workers a new one begins with is not the planner's."""
    rig = Rig(status={}, prefill={**RANGE, "initialReplicas": 3}, decode=RANGE)
    await rig.run(40, requests=60)

    assert (rig.balancing.wanted(KEY), rig.ledger, rig.read_at) == (None, [], [])


async def test_an_idle_service_is_read_less_often() -> None:
    """Every minute; at zero workers still every tick, for a request may wait."""
    ticks_an_hour = int(3600 / TICK)
    rig, zero = (
        Rig(prefill=RANGE, decode=RANGE),
        Rig(
            status={"prefill": {"targetReplicas": 0}, "decode": {"targetReplicas": 0}},
            prefill={"minReplicas": 0, "maxReplicas": 1},
            decode={"minReplicas": 0, "maxReplicas": 1},
        ),
    )
    for each in (rig, zero):
        await each.run(ticks_an_hour)

    quiet = ticks_an_hour - IDLE_AFTER_SECONDS / TICK
    expected = IDLE_AFTER_SECONDS / TICK + quiet * TICK / IDLE_TICK_SECONDS
    assert len(rig.read_at) == pytest.approx(expected, rel=0.1)
    assert len(zero.read_at) == ticks_an_hour
    assert len(rig.asked_at) <= 2
    assert len(rig.woken) <= 1


async def test_a_busy_service_is_told_of_every_half_minute() -> None:
    """Without a range nothing is planned, but latency and cost are told."""
    rig = Rig(cost={"acceleratorHourly": "3"})
    await rig.run(60, requests=1)

    gaps = [b - a for a, b in zip(rig.woken, rig.woken[1:], strict=False)]
    assert gaps
    assert min(gaps) >= TELL_SECONDS
    assert rig.ledger == []
    told = rig.balancing.measured(KEY)
    assert told is not None
    assert told.cost is not None
    # Two workers at 3 dollars, 0.2 requests of 200 tokens a second.
    assert float(told.cost.per_million_tokens) == pytest.approx(6 / 0.144, rel=0.1)


async def test_silent_routers_take_the_wish_back() -> None:
    """What nobody reports any more is not acted on."""
    rig = Rig(prefill=RANGE, decode=RANGE)
    await rig.run(40, requests=60)
    rig.silent = True
    await rig.run(1, requests=60)

    assert rig.balancing.wanted(KEY) is None


async def test_what_came_while_routers_were_silent_has_its_time() -> None:
    """One answer after four ticks tells of all four: a rate must not seem four times as high."""
    rig = Rig(prefill=RANGE, decode=RANGE)
    await rig.run(10, requests=10)
    rig.silent = True
    await rig.run(3, requests=10)
    rig.silent = False
    await rig.run(1, requests=10)

    signals = json.loads(rig.ledger[-1])["signals"]
    assert (signals["requests"], signals["seconds"]) == (40, 4 * TICK)


async def test_trouble_with_one_service_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The next tick tries again; until then the service's status can say why."""
    rig = Rig(prefill=RANGE, decode=RANGE)
    rig.broken = True
    await rig.run(2)
    told = rig.balancing.failure(KEY)
    rig.broken = False
    await rig.run(1)

    assert caplog.text.count("not balanced in this tick") == 1  # told once, not in every tick
    assert told == "RuntimeError: broken"
    assert rig.balancing.failure(KEY) is None
    assert rig.balancing.measured(KEY) is not None


async def test_an_edit_counts_from_the_next_tick_on() -> None:
    """A new generation is read anew."""
    rig = Rig(prefill=RANGE, decode=RANGE)
    await rig.run(40, requests=60)
    rig.put(None, {"prefill": {"replicas": 1}, "decode": {"replicas": 1}}, version=2)
    await rig.run(1, requests=60)

    assert rig.balancing.wanted(KEY) is None


async def test_a_gone_service_takes_its_metrics_along() -> None:
    """Nothing is kept of it."""
    rig = Rig(prefill=RANGE, decode=RANGE)
    await rig.run(2)
    labels = {"namespace": "ns", "service": "demo", "role": "prefill"}
    name = "steelyard_operator_service_workers"
    assert REGISTRY.get_sample_value(name, labels) == 1
    rig.services.saw("DELETED", {"metadata": {"namespace": "ns", "uid": "u", "name": "demo"}})
    await rig.run(1)

    assert REGISTRY.get_sample_value(name, labels) is None
    assert rig.balancing.measured(KEY) is None

"""Routers that take long to answer: read beside those of other services, in nobody's way."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from steelyard_operator.kube.balancing import Balancing
from steelyard_operator.kube.services import Services
from steelyard_operator.kube.token import MasterKey
from steelyard_operator.planning.balance.readings import RouterReading
from steelyard_operator.planning.observed import Pod
from steelyard_operator.testing import pod

pytestmark = pytest.mark.anyio


class Held:
    """Stores in which each service has a router named after it."""

    routers = SimpleNamespace(
        of=lambda _, name: [SimpleNamespace(record=replace(pod(0), name=name))]
    )
    pods = SimpleNamespace(of=lambda *_: [])


async def test_a_service_whose_routers_hang_holds_up_no_other() -> None:
    """Its next reading is waited for by nobody; the others are read in every tick."""
    now, read, hang = 1000.0, [], asyncio.Event()

    class Routers:
        async def readings(self, pods: Iterable[Pod]) -> list[RouterReading]:
            nonlocal now
            name = next(iter(pods)).name
            read.append(name)
            if name == "slow" and read.count("slow") == 1:
                now += 3.0
            elif name == "slow":
                await hang.wait()
            return []

    services = Services("", lambda _: None)
    for name in ("good", "slow"):
        meta = {"name": name, "namespace": "ns", "uid": name, "generation": 1}
        aimed = {"targetReplicas": 1}
        services.put(
            {
                "apiVersion": "steelyard.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {**meta, "resourceVersion": "1"},
                "spec": {"model": {"uri": "file:///m"}},
                "status": {"prefill": aimed, "decode": aimed},
            }
        )
    stand_ins: Any = (Held(), SimpleNamespace(), Routers())
    caches, workers, routers = stand_ins
    balancing = Balancing(
        services=services,
        caches=caches,
        workers=workers,
        routers=routers,
        master_key=MasterKey(b"k" * 32),
        wake=lambda _: None,
        ledger=lambda _: None,
        tick_seconds=5.0,
        clock=lambda: now,
    )
    await balancing.tick_all()
    for _ in range(3):
        now += 5.0
        await asyncio.wait_for(balancing.tick_all(), 5)
    hang.set()
    await asyncio.sleep(0)

    assert read.count("good") == 4
    assert read.count("slow") == 2

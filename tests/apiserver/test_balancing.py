"""The balance on a real API server: demand that routers tell of moves workers between roles.

Routers and workers are stand-ins on loopback addresses; the balance's clock runs fifty times as
fast, so that its holds of minutes pass in seconds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steelyard_operator.testing.cluster import CORE, SERVICES, Cluster, eventually, forked
from steelyard_operator.testing.demand import Router, step_sums, steps_document
from steelyard_operator.testing.fleet import Fleet
from steelyard_operator.testing.hurried import clock

HURRIED = "steelyard_operator.testing.hurried"
# Requests a second, their prompt tokens and their answer tokens.
Load = tuple[float, int, int]
ANSWERS, PROMPTS, NOTHING = (4.0, 20, 300), (2.4, 500, 8), (0.0, 0, 0)
RANGE = {"minReplicas": 1, "maxReplicas": 3}
SPEC: dict[str, Any] = {
    "prefill": {**RANGE, "initialReplicas": 1},
    "decode": {**RANGE, "initialReplicas": 2},
    "capacity": {"maxAccelerators": 3},
    "objectives": {"ttftMilliseconds": 1000, "tpotMilliseconds": 40},
    "cost": {"acceleratorHourly": "2", "ceilingPerMillionTokens": "1000"},
}


class Balanced(Fleet):
    """A service with a router, whose workers say what their steps take."""

    def __init__(self, cluster: Cluster, budget: int) -> None:
        super().__init__(cluster, budget)
        ip = f"127.{78 + os.getpid() % 100}.{os.getpid() // 100 % 250}.254"
        self.router = Router(ip, clock=clock)
        labels = {"steelyard.dev/service": "demo", "app.kubernetes.io/component": "router"}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "demo-router-0", "labels": labels},
            "spec": {"containers": [{"name": "router", "image": "router"}]},
        }
        cluster.starts(cluster.call("POST", CORE, "pods", body), ip)

    def start(self) -> None:
        """Let every pod run, with a worker whose speed is known."""
        super().start()
        for worker in self.workers.values():
            worker.steps = steps_document(step_sums())

    def status(self) -> dict[str, Any]:
        """Return the service's status."""
        return dict(self.cluster.call("GET", SERVICES, "inferenceservices/demo").get("status", {}))


@contextmanager
def balanced(
    cluster: Cluster, split: tuple[int, int], load: Load, **spec: Any
) -> Iterator[Balanced]:
    """Make a service with these workers and this load; an operator must be there."""
    found = Balanced(cluster, spec["capacity"]["maxAccelerators"])
    found.router.gets(*load)
    cluster.apply(**spec)
    try:
        found.comes_to(*split, "the first workers")
        yield found
    finally:
        found.router.close()
        for worker in found.workers.values():
            worker.close()


def test_a_swing_of_the_traffic_moves_a_worker_and_back(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """Long prompts take a decode worker, long answers take it back; the pods stay.

    The status tells the decision, latency and cost, and the ledger gives the same decisions again.
    """
    spec = {**SPEC, "rebalancing": {"cooldownSeconds": 1}}
    with (
        forked(cluster.api, tmp_path, module=HURRIED, **settings),
        balanced(cluster, (1, 2), ANSWERS, **spec) as found,
    ):
        before = found.uids()
        eventually(lambda: found.router.readings > 60, "a steady load is seen")
        assert found.split() == (1, 2)

        found.router.gets(*PROMPTS)
        found.comes_to(2, 1, "prompts get a second worker")
        found.router.gets(*ANSWERS)
        found.comes_to(1, 2, "answers get it back")

        assert found.uids() == before
        status = found.status()
        (back, there) = status["decisions"][:2]
        assert (there["inputs"]["workers"], there["target"]) == (
            {"prefill": 1, "decode": 2},
            {"prefill": 2, "decode": 1},
        )
        assert back["target"] == {"prefill": 1, "decode": 2}
        assert status["plan"]["message"].startswith("prefill+decode workers from 2+1 to 1+2, 1 by")

        def told() -> bool:
            said = found.status()
            return "cost" in said and "objectives" in said

        eventually(told, "latency and cost are told")
        status = found.status()
        assert status["objectives"]["ttftMilliseconds"] <= 64
        assert float(status["cost"]["perMillionTokens"]) > 0
        assert status["cost"]["currency"] == "USD"
        assert cluster.condition("WithinObjectives")["reason"] == "Kept"
        assert cluster.condition("WithinCost")["reason"] == "Kept"

    (log,) = tmp_path.glob("operator-*.log")
    same, different = (
        subprocess.run(
            [sys.executable, "-m", "steelyard_operator.cli", "replay", str(log), *more],
            capture_output=True,
            text=True,
            check=False,
        )
        for more in ([], ["--arrivals", "0.1"])
    )
    assert same.returncode == 0, same.stderr
    assert " 2+1 " in same.stdout
    assert different.returncode == 1


def test_a_recommendation_is_told_and_not_done(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """`mode: Recommend` writes the plan; nobody moves."""
    spec = {**SPEC, "rebalancing": {"cooldownSeconds": 1, "mode": "Recommend"}}
    with (
        forked(cluster.api, tmp_path, module=HURRIED, **settings),
        balanced(cluster, (1, 2), ANSWERS, **spec) as found,
    ):
        eventually(lambda: found.router.readings > 60, "a steady load is seen")
        found.router.gets(*PROMPTS)
        eventually(lambda: found.plan().get("state") == "Recommended", "the split is told")

        assert found.plan()["target"] == {"prefill": 2, "decode": 1}
        assert found.split() == (1, 2)
        assert not any(worker.orders for worker in found.workers.values())


def test_workers_go_to_zero_and_come_back_for_a_request(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """Without requests all end, drained; one that waits at a router brings both roles back."""
    zero = {"minReplicas": 0, "maxReplicas": 2, "initialReplicas": 1}
    spec = {**SPEC, "prefill": zero, "decode": zero, "rebalancing": {"cooldownSeconds": 1}}
    with (
        forked(cluster.api, tmp_path, module=HURRIED, **settings),
        balanced(cluster, (1, 1), NOTHING, **spec) as found,
    ):

        def gone() -> bool:
            for pod in cluster.pods():
                if pod["metadata"].get("deletionTimestamp"):
                    found.lose(pod["metadata"]["name"])
            return not found.workers

        eventually(lambda: gone() or None, "no worker is left")
        eventually(lambda: found.plan().get("state") == "Completed", "the plan is done")

        found.router.open = {"backlogTokens": 50, "backlog": 1, "decoding": 0}
        found.comes_to(1, 1, "workers for the request that waits")
        assert found.status()["decisions"][0]["reason"] == "FromZero"


def test_demand_beyond_the_budget_never_makes_a_pod_too_many(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """However much arrives, and while workers flip: `maxAccelerators` pods at the most."""
    spec = {
        **SPEC,
        "decode": {**RANGE, "initialReplicas": 1},
        "rebalancing": {"cooldownSeconds": 1},
    }
    with (
        forked(cluster.api, tmp_path, module=HURRIED, **settings),
        balanced(cluster, (1, 1), NOTHING, **spec) as found,
    ):
        for load, split in (((80.0, 500, 8), (2, 1)), ((80.0, 20, 300), (1, 2))):
            found.router.gets(*load)
            found.comes_to(*split, f"{split} for {load}")
        names = {pod["metadata"]["name"] for pod in cluster.pods()} - {"demo-router-0"}
        assert names == {"demo-0", "demo-1", "demo-2"}
        assert json.dumps(found.status()["decisions"]).count("AtMost") >= 1

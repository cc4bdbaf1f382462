"""The planner under traffic: it moves a worker between the roles by itself, and back.

The traffic stays the same; what changes are the objectives, so that the right split does not hang
on the speed of the machine: first no prompt is read fast enough, then no answer written.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness.kubectl import wait_for
from harness.service import PREFIX
from harness.world import World, leader

# Until a rate and the step times are known, and the other role has been too large for a while.
DECISION_SECONDS = 180
RANGE = {"replicas": None, "minReplicas": 1, "maxReplicas": 2}
FAST_PROMPTS = {"ttftMilliseconds": 1, "tpotMilliseconds": 60_000, "percentile": 99}
FAST_ANSWERS = {"ttftMilliseconds": 600_000, "tpotMilliseconds": 1, "percentile": 99}


def rebalance(world: World) -> None:
    """A decode worker becomes a prefill worker and back; both pods live on."""
    service = world.service
    before = {pod["metadata"]["uid"] for pod in service.workers()}
    world.traffic.wait_open()
    try:
        service.change(
            {
                "prefill": RANGE,
                "decode": RANGE,
                "capacity": {"maxAccelerators": len(before)},
                "rebalancing": {"cooldownSeconds": 5},
                "objectives": FAST_PROMPTS,
            }
        )
        _reaches(world, 2, 1)
        service.change({"objectives": FAST_ANSWERS})
        _reaches(world, 1, 2)
        _tells(world)
        assert {pod["metadata"]["uid"] for pod in service.workers()} == before, "a new pod"
    finally:
        service.change(
            {
                "prefill": {"replicas": 1, "minReplicas": None, "maxReplicas": None},
                "decode": {"replicas": 2, "minReplicas": None, "maxReplicas": None},
                "capacity": None,
                "rebalancing": None,
                "objectives": None,
            }
        )
    service.wait_steady()


def _tells(world: World) -> None:
    """Decisions, latencies and cost are in the status, and the ledger gives the decisions again."""
    status = world.service.read()["status"]
    targets = [decision["target"] for decision in status["decisions"]]
    assert targets[:2] == [{"prefill": 1, "decode": 2}, {"prefill": 2, "decode": 1}], targets
    assert status["objectives"]["ttftMilliseconds"] > 1, status["objectives"]
    assert float(status["cost"]["perMillionTokens"]) > 0, status["cost"]
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder, "ledger")
        ledger.write_text(world.kubectl("logs", leader(world.kubectl)))
        command = [sys.executable, "-m", "steelyard_operator.cli", "replay", str(ledger)]
        again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "2+1" in again.stdout, again.stdout


def _reaches(world: World, prefill: int, decode: int) -> None:
    def reached() -> bool:
        pods = world.service.workers()
        roles = [_roles(pod) for pod in pods]
        plan = world.service.read()["status"].get("plan") or {}
        split = (roles.count(["prefill"]), roles.count(["decode"]))
        return split == (prefill, decode) and plan.get("state") == "Completed"

    wait_for(f"the split {prefill}+{decode}", reached, seconds=DECISION_SECONDS)


def _roles(pod: dict[str, Any]) -> list[str]:
    labels = pod["metadata"]["labels"]
    return [role for role in ("prefill", "decode") if f"{PREFIX}{role}" in labels]

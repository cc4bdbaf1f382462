"""The planner under traffic: it moves a worker between the roles by itself, and back.

The traffic stays the same; what changes are the objectives, so that the right split does not hang
on the speed of the machine: first no prompt is read fast enough, then no answer written.
"""

import json
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
WIDE_RANGE = {"maxReplicas": 64}
FAST_PROMPTS = {"ttftMilliseconds": 1, "tpotMilliseconds": 60_000, "percentile": 99}
FAST_ANSWERS = {"ttftMilliseconds": 600_000, "tpotMilliseconds": 1, "percentile": 99}


def rebalance(world: World) -> None:
    """A decode worker becomes a prefill worker and back; then more are recommended, none made."""
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
        service.change(
            {
                "prefill": WIDE_RANGE,
                "decode": WIDE_RANGE,
                "capacity": {"maxAccelerators": 128},
                "rebalancing": {"mode": "Recommend"},
            }
        )
        wait_for("a larger split, recommended", lambda: _recommended(world) > 3, seconds=60)
        _is_decided_again(world)
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
    """Decisions, latencies and cost are in the status."""
    status = world.service.read()["status"]
    targets = [decision["target"] for decision in status["decisions"]]
    assert targets[:2] == [{"prefill": 1, "decode": 2}, {"prefill": 2, "decode": 1}], targets
    assert status["objectives"]["ttftMilliseconds"] > 1, status["objectives"]
    assert float(status["cost"]["perMillionTokens"]) > 0, status["cost"]


def _recommended(world: World) -> int:
    """Return how many workers are recommended; 0: the plan is no recommendation."""
    plan = world.service.read()["status"].get("plan") or {}
    return sum(plan["target"].values()) if plan.get("state") == "Recommended" else 0


def _is_decided_again(world: World) -> None:
    """The ledger's inputs alone give its splits, and twice the arrivals give others."""
    log = world.operator("logs", leader(world.operator))
    ticks = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    stripped = "\n".join(json.dumps({**tick, "decision": None}) for tick in ticks)
    recorded = [_text(tick["decision"]["split"]) for tick in ticks]
    assert {"1+2", "2+1"} <= set(recorded), recorded

    assert _replayed(stripped) == recorded
    assert _replayed(stripped, "--arrivals", "2") != recorded


def _replayed(ledger: str, *options: str) -> list[str]:
    """Return the splits that `steelyard replay` prints."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ledger")
        file.write_text(ledger)
        command = [sys.executable, "-m", "steelyard_operator.cli", "replay", str(file), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The number, the time, the service, the split, the reason.
    return [line.split()[3] for line in done.stdout.splitlines()]


def _text(split: dict[str, int]) -> str:
    return f"{split['prefill']}+{split['decode']}"


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

"""What a cluster's objects become on the page."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.api.status import InferenceServiceStatus
from steelyard_operator.dashboard.serving import as_measured, decisions, worker_fact
from steelyard_operator.page.chronicle import WorkerFact
from steelyard_operator.testing import NOON, pod

BOTH = frozenset({Role.PREFILL, Role.DECODE})


@pytest.mark.parametrize(
    ("given", "role", "phase"),
    [
        ({"roles": frozenset({Role.DECODE}), "ready": True}, "decode", "ready"),
        ({"roles": BOTH, "ready": True}, "both", "ready"),
        ({"roles": frozenset({Role.PREFILL}), "ready": False}, "prefill", "pending"),
        ({"roles": frozenset(), "ready": True}, "none", "draining"),
        ({"roles": frozenset({Role.DECODE}), "ready": True, "deleting": True}, "decode", "ending"),
    ],
)
def test_a_pod_is_a_worker_of_a_role(given: dict[str, Any], role: str, phase: str) -> None:
    """By its labels; one without a label is on its way."""
    found = worker_fact(pod(1, phase="Pending", **given))

    assert found == WorkerFact(found.name, role, phase)


def status(**fields: Any) -> InferenceServiceStatus:
    return InferenceServiceStatus.model_validate(fields)


def decision(minutes: int, message: str) -> dict[str, Any]:
    return {
        "time": (NOON + timedelta(minutes=minutes)).isoformat(),
        "reason": "Load",
        "message": message,
        "inputs": {"workers": {"prefill": 1, "decode": 2}},
        "target": {"prefill": 2, "decode": 1},
    }


def test_decisions_are_told_in_their_order() -> None:
    """With the split that was chosen."""
    found = decisions(status(decisions=[decision(2, "later"), decision(1, "sooner")]))

    assert [text for _, text in found] == ["Load: 2+1, sooner", "Load: 2+1, later"]
    first = datetime.now(UTC).replace(hour=12).astimezone()
    assert found[0][0].count(":") == first.strftime("%H:%M:%S").count(":")
    assert decisions(None) == []


def test_the_operators_own_figures_come_first() -> None:
    """They cover all routers; without them the page's own stay."""
    own = {"ttftMilliseconds": 1, "tpotMilliseconds": 2, "windowSeconds": 3}
    facts = {"latencies": own, "cost": {"perMillionTokens": 1.0, "currency": "USD"}}
    measured = status(
        objectives={"ttftMilliseconds": 250, "tpotMilliseconds": 40, "windowSeconds": 600},
        cost={"perMillionTokens": "0.50"},
    )

    assert as_measured({**facts}, None)["latencies"] == own
    found = as_measured(facts, measured)
    assert found["latencies"] == {
        "ttftMilliseconds": 250,
        "tpotMilliseconds": 40,
        "windowSeconds": 600,
    }
    assert found["cost"]["perMillionTokens"] == 0.5
    assert as_measured({**facts, "cost": None}, measured)["cost"] is None

"""Argo CD's health script on statuses as the operator writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lupa.lua51 import LuaRuntime  # The Lua that Argo CD runs scripts with.

SCRIPT = Path(__file__).parents[2] / "manifests/argocd/health.lua"
Table = dict[str, Any]


def resource(conditions: Table, *, observed: int | None = 2, suspend: str = "Disabled") -> Table:
    """Return a resource of generation 2 with some conditions: type to (status, message)."""
    listed = [
        {"type": kind, "status": status, "message": message}
        for kind, (status, message) in conditions.items()
    ]
    status: Table = {"conditions": listed}
    if observed is not None:
        status["observedGeneration"] = observed
    return {"metadata": {"generation": 2}, "spec": {"suspend": suspend}, "status": status}


@pytest.fixture
def health() -> Callable[[Table], tuple[str, str]]:
    """Run the script on a resource; returns the status and the message."""

    def run(content: Table) -> tuple[str, str]:
        lua = LuaRuntime()
        lua.globals().obj = lua.table_from(content, recursive=True)
        found = lua.execute(SCRIPT.read_text())
        return found["status"], found["message"]

    return run


READY = ("True", "It serves.")
CASES = {
    "serving": (resource({"Ready": READY, "Reconciling": ("False", "")}), "Healthy", "It serves."),
    "not seen yet": (
        resource({"Ready": READY}, observed=1),
        "Progressing",
        "The operator has not seen this generation yet",
    ),
    "never seen": (
        {"metadata": {"generation": 1}, "spec": {}},
        "Progressing",
        "The operator has not seen this generation yet",
    ),
    "under way": (
        resource({"Ready": ("False", ""), "Reconciling": ("True", "One worker loads.")}),
        "Progressing",
        "One worker loads.",
    ),
    "serving while it rolls": (
        resource({"Ready": READY, "Reconciling": ("True", "Two of three are new.")}),
        "Progressing",
        "Two of three are new.",
    ),
    "a user must edit": (
        resource({"Reconciling": ("False", ""), "Stalled": ("True", "The image is missing.")}),
        "Degraded",
        "The image is missing.",
    ),
    "neither ready nor under way": (
        resource({"Ready": ("False", "A worker is being repaired.")}),
        "Progressing",
        "A worker is being repaired.",
    ),
    "hands off": (
        resource({"Ready": READY}, suspend="Enabled"),
        "Suspended",
        "spec.suspend is Enabled",
    ),
}


@pytest.mark.parametrize(("content", "status", "message"), CASES.values(), ids=CASES)
def test_health(
    health: Callable[[Table], tuple[str, str]], content: Table, status: str, message: str
) -> None:
    """Argo CD shows what the conditions say, and nothing of an older generation."""
    assert health(content) == (status, message)

"""Somebody dies at a chosen request of the operator's; the others finish what it was about.

Which requests is a seeded sample; `tests/apiserver/test_deaths.py` and `test_flip.py` do them all.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from harness.clusters import OPERATOR
from harness.kubectl import wait_for
from harness.world import World, leader
from steelyard_operator.planning.transaction import FLIP_AGAIN

PROGRAM = ["python", "-m", "steelyard_operator.testing.dying"]
VARIABLE, FILE = "STEELYARD_DYING_FILE", "/tmp/dying"  # in a volume of the pod's own
PAUSED = f"{FILE}.paused"
CONTAINER = "operator"
# The shortest of the flows has eight requests that change something, a flip seven.
LAST_REQUEST, LAST_OF_A_FLIP = 8, 7
TO_PREFILL = {"prefill": {"replicas": 2}, "decode": {"replicas": 1}}
TO_DECODE = {"prefill": {"replicas": 1}, "decode": {"replicas": 2}}
# There and back again, once by a flip and once by another pod.
FLOWS = (TO_PREFILL, TO_DECODE, {"decode": {"replicas": 3}}, {"decode": {"replicas": 2}})
WORKERS = 3
Part = Literal["donor", "receiver"]


def die_at_a_step(world: World) -> None:
    """The operator dies, once in each flow."""
    died = []
    with _counting(world):
        for flow in FLOWS:
            moment = world.random.choice(("before", "after"))
            request = world.random.randint(1, LAST_REQUEST)
            if _operator_dies(world, flow, f"{moment} {request}"):
                died.append(f"{moment} {request}")
    # A flow may end before its request comes; where all do, nothing was tried.
    assert died, "no operator died"


def lose_a_worker_at_a_step(world: World) -> None:
    """In each flip the worker that changes its role dies, or one that has the new role already.

    Its engine is killed, or its pod is lost. There is never a pod more than before.
    """
    died = []
    with _counting(world):
        try:
            for part in ("donor", "receiver"):
                for flow, new_role in ((TO_PREFILL, "prefill"), (TO_DECODE, "decode")):
                    request = world.random.randint(1, LAST_OF_A_FLIP)
                    if _worker_dies(world, part, flow, new_role, request):
                        died.append(part)
        finally:
            world.service.change({**TO_DECODE, "capacity": None})
        world.service.wait_steady()
    assert set(died) == {"donor", "receiver"}, f"only these died: {died}"


@contextmanager
def _counting(world: World) -> Iterator[None]:
    """For a while, operators that count their requests are in place."""
    try:
        _run(world, {"command": PROGRAM, "env": [{"name": VARIABLE, "value": FILE}]})
        yield
    finally:
        _run(world, {"command": None, "env": [{"name": VARIABLE, "$patch": "delete"}]})


def _operator_dies(world: World, flow: dict[str, Any], moment: str) -> bool:
    world.victim("decode")
    pod = leader(world.operator)
    restarts = _restarts(world, pod)
    _arm(world, pod, moment)
    world.service.change(flow)

    def over() -> str:
        if _restarts(world, pod) > restarts:
            return "died"
        return "done" if world.service.steady() else ""

    outcome = wait_for(f"death {moment}, or the end", over, seconds=180)
    _disarm(world, pod)
    world.service.wait_steady()
    return outcome == "died"


def _worker_dies(
    world: World, part: Part, flow: dict[str, Any], new_role: str, request: int
) -> bool:
    wait_for("a plan that may flip again", lambda: _may_flip(world), seconds=90)
    world.victim("decode")
    pod = leader(world.operator)
    _arm(world, pod, f"pause {request}")
    world.service.change({**flow, "capacity": {"maxAccelerators": WORKERS}})

    def over() -> str:
        if _operator_says(world, pod, f"pathlib.Path({PAUSED!r}).exists()") == "True":
            return "paused"
        return "done" if world.service.steady() else ""

    outcome = wait_for(f"pause {request}, or the end", over, seconds=180)
    if outcome == "paused":
        victim = _victim(world, part, new_role)
        if world.random.random() < 0.5:
            world.service.kill_engine(victim)
        else:
            arguments = ("--force", "--grace-period=0", "--wait=false")
            world.kubectl("delete", "pod", victim, *arguments)
    _disarm(world, pod)

    def steady_inside_the_budget() -> bool:
        assert len(world.service.workers()) <= WORKERS, "more pods than the budget has places"
        return world.service.steady()

    what = f"a steady service after the {part} died at request {request}"
    wait_for(what, steady_inside_the_budget, seconds=240)
    return outcome == "paused"


def _may_flip(world: World) -> bool:
    """Whether the next change is a flip; after one that was rolled back workers are replaced."""
    plan = world.service.read()["status"].get("plan") or {}
    if plan.get("state") != "RolledBack":
        return True
    return datetime.now(UTC) > datetime.fromisoformat(plan["endTime"]) + FLIP_AGAIN


def _victim(world: World, part: Part, new_role: str) -> str:
    """Return the pod of the worker that changes its role, or of one that has the new one."""
    plan = world.service.read()["status"].get("plan") or {}
    moving = plan.get("pods", []) if plan.get("state") == "Running" else []
    if part == "donor" and moving:
        pods = [pod for pod in world.service.workers() if pod["metadata"]["uid"] in moving]
    elif part == "donor":  # The first requests write the plan: it may be any of the others.
        having = {pod["metadata"]["uid"] for pod in world.service.workers(new_role)}
        pods = [pod for pod in world.service.workers() if pod["metadata"]["uid"] not in having]
    else:
        pods = [p for p in world.service.workers(new_role) if p["metadata"]["uid"] not in moving]
    return world.random.choice(sorted(str(pod["metadata"]["name"]) for pod in pods))


def _arm(world: World, pod: str, what: str) -> None:
    _operator_says(world, pod, f"pathlib.Path({FILE!r}).write_text({what!r})")


def _disarm(world: World, pod: str) -> None:
    """Let an operator live, and go on; its next start may be some seconds away."""
    unlink = "[pathlib.Path(name).unlink(missing_ok=True) for name in {!r}]"
    script = unlink.format((FILE, PAUSED))
    wait_for(f"an end of what stops {pod}", lambda: _operator_says(world, pod, script), seconds=120)


def _operator_says(world: World, pod: str, expression: str) -> str:
    """Return what a Python expression is in an operator's container."""
    script = f"import pathlib; print({expression})"
    return world.operator.execute(pod, CONTAINER, "python", "-c", script).strip()


def _restarts(world: World, pod: str) -> int:
    statuses = world.operator.read("pod", pod)["status"].get("containerStatuses") or []
    return sum(int(each["restartCount"]) for each in statuses)


def _run(world: World, container: dict[str, Any]) -> None:
    """Change what the operator's pods run, and wait for them."""
    change = {"spec": {"template": {"spec": {"containers": [{"name": CONTAINER, **container}]}}}}
    world.operator("patch", "deployment", OPERATOR, "--patch", json.dumps(change))
    arguments = ("rollout", "status", f"deployment/{OPERATOR}", "--timeout=120s")
    world.operator(*arguments, timeout=150)

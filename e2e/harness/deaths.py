"""The operator dies at a chosen request of a flip and of a change of size; the other one finishes.

Which requests is a seeded sample; `tests/apiserver/test_deaths.py` and `test_flip.py` do them all.
"""

import json
from typing import Any

from harness.clusters import OPERATOR
from harness.kubectl import wait_for
from harness.world import World, leader

PROGRAM = ["python", "-m", "steelyard_operator.testing.dying"]
VARIABLE, FILE = "STEELYARD_DYING_FILE", "/tmp/dying"  # in a volume of the pod's own
CONTAINER = "operator"
# The shortest of the flows has eight requests that change something.
LAST_REQUEST = 8
# There and back again, once by a flip and once by another pod.
FLOWS = (
    {"prefill": {"replicas": 2}, "decode": {"replicas": 1}},
    {"prefill": {"replicas": 1}, "decode": {"replicas": 2}},
    {"decode": {"replicas": 3}},
    {"decode": {"replicas": 2}},
)


def die_at_a_step(world: World) -> None:
    """Operators that count their requests are put in place; each flow meets one death."""
    died = []
    try:
        _run(world, {"command": PROGRAM, "env": [{"name": VARIABLE, "value": FILE}]})
        for flow in FLOWS:
            moment = world.random.choice(("before", "after"))
            request = world.random.randint(1, LAST_REQUEST)
            if _dies(world, flow, f"{moment} {request}"):
                died.append(f"{moment} {request}")
    finally:
        _run(world, {"command": None, "env": [{"name": VARIABLE, "$patch": "delete"}]})
    # A flow may end before its request comes; where all do, nothing was tried.
    assert died, "no operator died"


def _dies(world: World, flow: dict[str, Any], moment: str) -> bool:
    world.victim("decode")
    pod = leader(world.kubectl)
    restarts = _restarts(world, pod)
    world.kubectl.execute(pod, CONTAINER, *_python(f"open({FILE!r}, 'w').write({moment!r})"))
    world.service.change(flow)

    def over() -> str:
        if _restarts(world, pod) > restarts:
            return "died"
        return "done" if world.service.steady() else ""

    outcome = wait_for(f"death {moment}, or the end", over, seconds=180)
    disarm = f"import pathlib; pathlib.Path({FILE!r}).unlink(missing_ok=True); print('ok')"

    def disarmed() -> str:  # Its next start may be some seconds away.
        return world.kubectl.execute(pod, CONTAINER, *_python(disarm))

    wait_for(f"an end of what kills {pod}", disarmed, seconds=120)
    world.service.wait_steady()
    return outcome == "died"


def _python(script: str) -> tuple[str, ...]:
    return ("python", "-c", script)


def _restarts(world: World, pod: str) -> int:
    statuses = world.kubectl.read("pod", pod)["status"].get("containerStatuses") or []
    return sum(int(each["restartCount"]) for each in statuses)


def _run(world: World, container: dict[str, Any]) -> None:
    """Change what the operator's pods run, and wait for them."""
    change = {"spec": {"template": {"spec": {"containers": [{"name": CONTAINER, **container}]}}}}
    world.kubectl("patch", "deployment", OPERATOR, "--patch", json.dumps(change))
    arguments = ("rollout", "status", f"deployment/{OPERATOR}", "--timeout=120s")
    world.kubectl(*arguments, timeout=150)

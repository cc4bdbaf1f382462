"""The faults and changes that a service must survive under traffic, one function each.

A scenario gets a steady service with open streams, does one thing, and returns when the service is
steady again. Whether the requests went well is judged outside (`verdict.py`), for all alike. Each
leaves the service as it found it, so that `test_chaos.py` can play them in any order.
"""

import json
import time
from typing import Any

from harness.balance import rebalance
from harness.clusters import OPERATOR
from harness.deaths import die_at_a_step, lose_a_worker_at_a_step
from harness.kubectl import wait_for
from harness.service import Service
from harness.world import LEASE, Scenario, World, leader

DRAIN_SECONDS = 300


def _uid(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["uid"])


def edit_replicas(world: World) -> None:
    """One more worker of each role, and back."""
    before = world.service.read()["spec"]
    for more in (1, 0):
        world.traffic.wait_open()
        for pod in world.service.workers("decode"):
            world.service.await_request(pod["metadata"]["name"])
        world.service.change(
            {
                role: {"replicas": before[role].get("replicas", 1) + more}
                for role in ("prefill", "decode")
            }
        )
        world.service.wait_steady()


def roll_out(world: World) -> None:
    """A changed template replaces every worker."""
    old = {_uid(pod) for pod in world.service.workers()}
    world.victim("decode")
    value = str(world.random.randrange(10**9))
    world.service.change({"runtime": {"env": [{"name": "E2E_ROLLOUT", "value": value}]}})
    world.service.wait_steady(seconds=600)
    assert not old & {_uid(pod) for pod in world.service.workers()}, "a worker was not replaced"


def delete_decode_pod(world: World) -> None:
    """`kubectl delete pod` on a worker that writes answers."""
    _delete(world, world.victim("decode"))


def delete_prefill_pod(world: World) -> None:
    """`kubectl delete pod` on a worker that reads prompts."""
    names = [pod["metadata"]["name"] for pod in world.service.workers("prefill")]
    world.traffic.wait_open()
    _delete(world, world.random.choice(sorted(names)))


def delete_router_pod(world: World) -> None:
    """`kubectl delete pod` on a router: its streams end in peace, new ones find the other."""
    names = [pod["metadata"]["name"] for pod in world.service.routers()]
    world.traffic.wait_open()
    _delete(world, world.random.choice(sorted(names)))


def _delete(world: World, name: str) -> None:
    uid = _uid(world.kubectl.read("pod", name))
    world.kubectl("delete", "pod", name, "--wait=false")

    def gone() -> bool:
        pods = world.kubectl.items("pods", world.service.selector)
        return all(_uid(pod) != uid for pod in pods)

    wait_for(f"the end of pod {name}", gone, seconds=180)
    world.service.wait_steady()


def kill_engine(world: World) -> None:
    """SIGKILL for the engine process of a worker in the middle of an answer."""
    name = world.victim("decode")
    before = world.kubectl.read("pod", name)
    restarts = before["status"]["containerStatuses"][0]["restartCount"]
    state = world.service.kill_busy_engine(name)
    assert state["running"], f"no stream was on the victim {name}: {state}"

    def noticed() -> bool:
        pods = {_uid(pod): pod for pod in world.service.workers()}
        if _uid(before) not in pods:
            return True
        statuses = pods[_uid(before)]["status"].get("containerStatuses", [])
        return any(status["restartCount"] > restarts for status in statuses)

    wait_for(f"a new engine in {name}", noticed, seconds=120)
    world.service.wait_steady()


def drain_node(world: World) -> None:
    """`kubectl drain` of a node with workers on it, then `uncordon`."""
    node = world.cluster.nodes[-1]
    _worker_on(world, node)
    world.traffic.wait_open()
    for pod in world.service.workers("decode"):
        if pod["spec"]["nodeName"] == node:
            world.service.await_request(pod["metadata"]["name"])
    arguments = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={DRAIN_SECONDS}s")
    try:
        world.kubectl("drain", node, *arguments, timeout=DRAIN_SECONDS + 30)
        left = [pod for pod in world.service.workers() if pod["spec"].get("nodeName") == node]
        assert left == [], "workers are left on a drained node"
        world.service.wait_steady()
    finally:
        world.kubectl("uncordon", node)


def _worker_on(world: World, node: str) -> None:
    """Make sure that a worker runs on the node: the last drain may have emptied it."""

    def on_node() -> list[str]:
        pods = world.service.workers()
        return [p["metadata"]["name"] for p in pods if p["spec"].get("nodeName") == node]

    for _ in range(3):
        if on_node():
            return
        name = world.random.choice(sorted(p["metadata"]["name"] for p in world.service.workers()))
        _delete(world, name)  # Its successor is spread to the emptier node.
    raise AssertionError(f"no worker can be brought to node {node}")


def kill_operator(world: World, *, kills: int = 3) -> None:
    """The leading operator dies at some moment of a change; the other one finishes it."""
    before = world.service.read()["spec"]["decode"].get("replicas", 1)
    for kill in range(kills):
        world.victim("decode")
        victim = leader(world.operator)
        world.service.change({"decode": {"replicas": before + (kill + 1) % 2}})
        time.sleep(world.random.uniform(0, 3))  # Any moment of the change will do.
        world.operator("delete", "pod", victim, "--force", "--grace-period=0", "--wait=false")
    world.service.change({"decode": {"replicas": before}})
    world.service.wait_steady()
    _operators_run(world)


def two_operators(world: World) -> None:
    """The Lease is taken from the leader during a change: for a moment two of them act."""
    before = world.service.read()["spec"]["decode"].get("replicas", 1)
    for replicas in (before + 1, before):
        world.victim("decode")
        leader(world.operator)
        world.service.change({"decode": {"replicas": replicas}})
        world.operator("delete", "lease", LEASE)
        world.service.wait_steady()
    _operators_run(world)


def _operators_run(world: World) -> None:
    arguments = ("rollout", "status", f"deployment/{OPERATOR}", "--timeout=120s")
    world.operator(*arguments, timeout=150)


def restart_api_server(world: World) -> None:
    """The API server dies and comes back; then a worker is lost, to see that repair goes on."""
    world.victim("decode")
    world.cluster.restart_api_server()
    delete_decode_pod(world)


def unschedulable(world: World) -> None:
    """A second service asks for GPUs that no node has: it says so, and the first is untouched."""
    gpu = {"limits": {"nvidia.com/gpu": 64}}
    name = f"gpu-{world.random.randrange(10**6)}"
    spec = dict(world.service.read()["spec"])
    world.kubectl.apply(
        {
            "apiVersion": "steelyard.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": name},
            "spec": {
                "model": spec["model"],
                "prefill": {"replicas": 1, "resources": gpu},
                "decode": {"replicas": 1, "resources": gpu},
                "router": {"replicas": 1},
            },
        }
    )
    other = Service(world.kubectl, name)
    try:

        def said() -> bool:
            reconciling = other.condition("Reconciling")
            return reconciling.get("status") == "True" and "nvidia.com/gpu" in json.dumps(
                other.read()["status"]["conditions"]
            )

        wait_for("a condition that names the missing GPU", said, seconds=90)
        assert other.condition("Ready").get("status") == "False"
        assert other.condition("Stalled").get("status") != "True"
        delete_decode_pod(world)  # The operator still looks after the first service.
    finally:
        world.kubectl("delete", "inferenceservice", name, "--timeout=60s", timeout=90)


def edit_while_draining(world: World) -> None:
    """A pod is deleted, and while it drains the service is scaled: both come to an end."""
    before = world.service.read()["spec"]["decode"].get("replicas", 1)
    name = world.victim("decode")
    world.kubectl("delete", "pod", name, "--wait=false")
    world.service.change({"decode": {"replicas": before + 1}})
    world.service.wait_steady()
    world.service.change({"decode": {"replicas": before}})
    world.service.wait_steady()


SCENARIOS = (
    Scenario("edit replicas", edit_replicas),
    Scenario("delete decode pod", delete_decode_pod),
    Scenario("delete prefill pod", delete_prefill_pod),
    Scenario("delete router pod", delete_router_pod),
    Scenario("kill -9 engine", kill_engine, kills=True),
    Scenario("change template", roll_out),
    Scenario("scale while draining", edit_while_draining),
    Scenario("drain node", drain_node, nodes=2),
    Scenario("rebalance", rebalance),
    Scenario("kill operator", kill_operator),
    Scenario("operator dies at a step", die_at_a_step),
    Scenario("worker dies at a step of a flip", lose_a_worker_at_a_step, kills=True),
    Scenario("two operators", two_operators),
    Scenario("restart API server", restart_api_server, own_cluster=True),
    Scenario("GPU request that no node can hold", unschedulable),
)

"""Resources at the extremes of the CRD beside good services, on a real API server.

A hundred of them, or as many as STEELYARD_HOSTILE_RESOURCES says; figures of 1,000 are in
docs/operator.md. Pods of good services run, with a stand-in for the worker; no other pod does.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from steelyard_operator.kube.room import FIRST, GROWING, STARTING
from steelyard_operator.testing.cluster import (
    CORE,
    SERVICES,
    Cluster,
    Worker,
    eventually,
    holder,
    operating,
)
from steelyard_operator.testing.hostile import hostile_specs

MANY = int(os.environ.get("STEELYARD_HOSTILE_RESOURCES", "100"))
GOOD = 10 if MANY > 100 else 3
MOST_MEMORY_MIB = 400
SETTLED_SECONDS = 120 if MANY > 500 else 10
ROUNDS = 3
SPECS = hostile_specs()


class GoodServices:
    """Services of one prefill and one decode worker, whose pods this test runs."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self.cluster = cluster
        self.stack = stack
        self.addresses = {f"good{n}": (f"127.66.{n}.1", f"127.66.{n}.2") for n in range(GOOD)}
        for name, ips in self.addresses.items():
            for role, ip in zip(("decode", "prefill"), ips, strict=True):
                stack.callback(Worker(ip, role).close)
            cluster.apply(name)

    def pods(self, name: str) -> list[dict[str, Any]]:
        """Return a service's workers that are not being deleted."""
        query = f"pods?labelSelector=steelyard.dev/service={name}"
        items = self.cluster.call("GET", CORE, query)["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def run(self, name: str) -> None:
        """Start both pods once they are there."""
        eventually(lambda: len(self.pods(name)) == 2, f"two pods of {name}")
        for pod in self.pods(name):
            if pod["status"].get("podIP") is None:
                decode = "steelyard.dev/decode" in pod["metadata"]["labels"]
                self.cluster.starts(pod, self.addresses[name][0 if decode else 1])

    def replacement_seconds(self, name: str) -> float:
        """Lose a worker; return how long it takes until another is made."""
        victim = self.pods(name)[0]["metadata"]
        began = time.monotonic()
        self.cluster.ends(victim["name"])

        def replaced() -> bool:
            uids = {pod["metadata"]["uid"] for pod in self.pods(name)}
            return len(uids) == 2 and victim["uid"] not in uids

        eventually(replaced, f"a new pod of {name}")
        took = time.monotonic() - began
        self.run(name)
        self.ready(name)
        return took

    def ready(self, name: str) -> None:
        """Wait until the status says that both workers serve."""
        for kind in ("PrefillReady", "DecodeReady"):
            eventually(
                lambda kind=kind: self.cluster.condition(kind, name)["reason"] == "Serving",
                f"{kind} of {name}",
            )

    def lose_some(self) -> list[float]:
        """Lose workers of some services; return how long each took, the quickest first."""
        return sorted(self.replacement_seconds(name) for name in [*self.addresses][:ROUNDS])


@contextmanager
def operated(cluster: Cluster, folder: Path, settings: dict[str, str]) -> Iterator[int]:
    """Run an operator and give its process id."""
    with operating(cluster.api, folder, **settings) as process:
        eventually(lambda: holder(cluster.api, cluster.namespace), "an operator leads")
        yield process.pid


def memory_mib(pid: int, field: str = "VmHWM") -> int:
    """Return a process' memory; by default the most that it ever had."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) >> 10  # type: ignore[index]  # Linux


def apply_hostile(cluster: Cluster) -> tuple[int, int]:
    """Make the resources; return how many were accepted and how many refused by the CRD."""
    specs = hostile_specs()
    step = max(1, len(specs) // MANY)
    chosen = [*specs[-2:], *specs[::step]] if len(specs) > MANY else specs
    made = refused = 0
    for number, spec in enumerate(islice(cycle(chosen), MANY)):
        reply = cluster.api.call(
            "POST",
            f"{SERVICES}/{cluster.namespace}/inferenceservices",
            {
                "apiVersion": "steelyard.dev/v1alpha1",
                "kind": "InferenceService",
                "metadata": {"name": f"h{number}".ljust(40, "x")},
                "spec": spec,
            },
        )
        assert reply.status in (201, 422), reply.body
        made, refused = made + (reply.status == 201), refused + (reply.status == 422)
    return made, refused


def test_hostile_resources_cost_good_services_nothing(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """Lost pods are replaced as before, memory and pods are bounded, and nothing escapes."""
    with ExitStack() as stack:
        good = GoodServices(cluster, stack)
        pid = stack.enter_context(operated(cluster, tmp_path, settings))
        for name in good.addresses:
            good.run(name)
        for name in good.addresses:
            good.ready(name)
        before, memory_before = good.lose_some(), memory_mib(pid)

        began = time.monotonic()
        made, refused = apply_hostile(cluster)
        meanwhile = good.lose_some()
        time.sleep(
            max(0.0, SETTLED_SECONDS - (time.monotonic() - began))
        )  # let them do their worst
        after, memory = good.lose_some(), memory_mib(pid)
        pods = len(cluster.pods())

        for name in good.addresses:
            good.ready(name)
        log = "".join(path.read_text() for path in tmp_path.glob("operator-*.log"))
    figures = {
        **{"made": made, "refused": refused, "pods": pods, "replaced before": before},
        **{"meanwhile": meanwhile, "after": after},
        **{"MiB before": memory_before, "MiB": memory},
    }
    print(figures)  # noqa: T201  # what docs/operator.md tells
    assert made > 0.9 * MANY
    assert memory < MOST_MEMORY_MIB
    assert pods <= min(GROWING + FIRST * made, STARTING + GROWING) + 2 * GOOD
    assert [line for line in log.splitlines() if "Traceback" in line] == []
    # Twice the time, and what a busy machine adds to a request.
    assert after[ROUNDS // 2] < 2 * before[ROUNDS // 2] + 2.0

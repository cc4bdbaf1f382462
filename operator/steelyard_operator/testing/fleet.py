"""The pods of one service with stand-ins for their workers, as a kubelet would run them."""

import os
from collections.abc import Callable
from typing import Any

from steelyard_operator.testing.cluster import SERVICES, Cluster, Worker, eventually

LABELS = {"prefill": "steelyard.dev/prefill", "decode": "steelyard.dev/decode"}


class Fleet:
    """A service's pods with their stand-ins, as the kubelet runs them."""

    def __init__(self, cluster: Cluster, budget: int) -> None:
        self.cluster = cluster
        self.budget = budget
        self.workers: dict[str, Worker] = {}
        self._started = 0

    def start(self) -> None:
        """Let every pod that has no worker run."""
        for pod in self.cluster.pods():
            name = pod["metadata"]["name"]
            if name not in self.workers:
                self._started += 1
                number = self._started + 1
                ip = f"127.{78 + os.getpid() % 100}.{os.getpid() // 100 % 250}.{number}"
                self.workers[name] = Worker(ip, self.roles(pod)[0])
                self.cluster.starts(pod, ip)

    @staticmethod
    def roles(pod: dict[str, Any]) -> list[str]:
        """Return the roles that a pod is labelled with."""
        labels = pod["metadata"]["labels"]
        return [role for role, label in LABELS.items() if label in labels]

    def split(self) -> tuple[int, int]:
        """Return how many pods are labelled with each role, and with no other."""
        roles = [self.roles(pod) for pod in self.cluster.pods()]
        return roles.count(["prefill"]), roles.count(["decode"])

    def uids(self) -> set[str]:
        """Return who there is."""
        return {pod["metadata"]["uid"] for pod in self.cluster.pods()}

    def plan(self) -> dict[str, Any]:
        """Return the plan of the status."""
        status = self.cluster.call("GET", SERVICES, "inferenceservices/demo").get("status", {})
        return dict(status.get("plan") or {})

    def ask(self, prefill: int, decode: int) -> None:
        """Edit the numbers of the resource."""
        counts = {"prefill": {"replicas": prefill}, "decode": {"replicas": decode}}
        self.cluster.edit({"spec": counts})

    def victim(self, whose: str, new_role: str) -> str:
        """Return the pod of the worker that changes its role, or of one that has the new one."""
        moving = self.plan().get("pods", []) if self.plan().get("state") == "Running" else []
        pods = [(p["metadata"]["name"], p["metadata"]["uid"], p) for p in self.cluster.pods()]
        if whose == "donor" and moving:
            return str(next(name for name, uid, _ in pods if uid in moving))
        other = [n for n, uid, p in pods if new_role in self.roles(p) and uid not in moving]
        return str(other[0] if whose == "receiver" else pods[0][0])

    def lose(self, name: str) -> None:
        """Take a pod and its worker away at once."""
        self.workers.pop(name).close()
        self.cluster.ends(name)

    def agrees(self, prefill: int, decode: int) -> bool:
        """Whether labels and workers say the same, and nothing is under way."""
        said = [worker.role for worker in self.workers.values() if worker.phase == "ready"]
        return (
            self.split() == (prefill, decode)
            and (said.count("prefill"), said.count("decode")) == (prefill, decode)
            and self.plan().get("state") != "Running"
        )

    def comes_to(
        self,
        prefill: int,
        decode: int,
        what: str,
        or_else: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait for a split, or for something else; new pods run, and the budget holds meanwhile."""

        def come() -> bool:
            if or_else():
                return True
            self.start()
            assert len(self.cluster.pods()) <= self.budget, "more pods than the budget has places"
            return self.agrees(prefill, decode)

        eventually(come, what)

"""A service's pods as a kubelet would treat them, those that are deleted included."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steelyard_operator.testing.cluster import SERVICES, Cluster
from steelyard_operator.testing.fleet import Fleet


class Life(Fleet):
    """A service whose pods end when they are deleted, as a kubelet sees to it."""

    def __init__(self, cluster: Cluster, budget: int) -> None:
        super().__init__(cluster, budget)
        self.most = 0

    def live(self) -> list[dict[str, Any]]:
        """Let pods start and end; returns those that there are."""
        for pod in self.cluster.pods():
            name = pod["metadata"]["name"]
            if pod["metadata"].get("deletionTimestamp"):
                if name in self.workers:
                    self.workers.pop(name).close()
                self.cluster.ends(name)
        self.start()
        pods = self.cluster.pods()
        self.most = max(self.most, len(pods))
        assert len(pods) <= self.budget, "more pods than the budget has places"
        return pods

    def steady(self, prefill: int, decode: int) -> bool:
        """Whether exactly these workers serve, and the status says that nothing is under way."""
        pods = self.live()
        if any(pod["metadata"].get("deletionTimestamp") for pod in pods):
            return False
        split = self.split()
        resource = self.cluster.call("GET", SERVICES, "inferenceservices/demo")
        generation = resource["metadata"]["generation"]
        reconciling = self.cluster.condition("Reconciling")
        # The routers' Deployment has no controller here, so its message alone may be left.
        settled = "router" in reconciling["message"] or reconciling["status"] == "False"
        seen = resource.get("status", {}).get("observedGeneration") == generation
        return split == (prefill, decode) and len(pods) == prefill + decode and seen and settled

    def runs(self, name: str, value: str) -> bool:
        """Whether every pod has this variable."""
        environments = [str(pod["spec"]["containers"][0].get("env")) for pod in self.live()]
        return all(f"'{name}', 'value': '{value}'" in text for text in environments)

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close()


@contextmanager
def life(cluster: Cluster, budget: int) -> Iterator[Life]:
    """Give the pods' side of a service that need not be there yet."""
    found = Life(cluster, budget)
    try:
        yield found
    finally:
        found.close()

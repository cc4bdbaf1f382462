"""What a scenario works with, and what it is."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from harness.clusters import OPERATOR, Cluster
from harness.kubectl import Kubectl, wait_for
from harness.service import Service
from harness.traffic import Traffic

LEASE = "steelyard-operator"


@dataclass(frozen=True, slots=True)
class World:
    """What a scenario works with."""

    cluster: Cluster
    service: Service
    traffic: Traffic
    random: Random

    @property
    def kubectl(self) -> Kubectl:
        """Kubectl in the service's namespace."""
        return self.cluster.kubectl

    def victim(self, role: str) -> str:
        """Return a worker of the role that has a request now, with enough streams open."""
        names = [str(pod["metadata"]["name"]) for pod in self.service.workers(role)]
        name = self.random.choice(sorted(names))
        self.traffic.wait_open()
        self.service.await_request(name)
        return name


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fault or change."""

    name: str
    run: Callable[[World], None]
    kills: bool = False
    """Something ends without being asked to drain: streams may go on from another worker."""
    nodes: int = 1
    own_cluster: bool = False
    """Only where the API server may be killed."""


def leader(kubectl: Kubectl) -> str:
    """Return the name of the operator's pod that holds the Lease."""

    def held() -> str:
        holder = str(kubectl.read("lease", LEASE)["spec"].get("holderIdentity") or "")
        names = [
            pod["metadata"]["name"]
            for pod in kubectl.items("pods", f"app.kubernetes.io/name={OPERATOR}")
        ]
        return next((name for name in names if holder.startswith(name)), "")

    return wait_for("an operator that holds the Lease", held, seconds=90)

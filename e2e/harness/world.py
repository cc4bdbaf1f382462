"""What a scenario works with, and what it is."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from harness.clusters import OPERATOR, Cluster
from harness.kubectl import Kubectl, wait_for
from harness.service import Service, ready
from harness.traffic import Traffic

LEASE = "steelyard-operator"
VICTIM_SECONDS = 120.0


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

    @property
    def operator(self) -> Kubectl:
        """Kubectl in the operator's namespace."""
        return self.cluster.operator

    def victim(self, role: str) -> str:
        """Return a worker of the role that has a request now, with enough streams open.

        Where the service is in the midst of a change, a worker that starts or ends is no victim.

        Raises:
            AssertionError: a worker that serves all the time gets no request.
        """
        self.traffic.wait_open()
        what = f"a {role} worker with a request"
        return wait_for(what, lambda: self._busy(role), seconds=VICTIM_SECONDS)

    def _busy(self, role: str) -> str:
        """Return a worker of the role after waiting for its request; nothing if it ended."""
        names = self._serving(role)
        if not names:
            return ""
        name = self.random.choice(names)
        try:
            self.service.await_request(name)
        except AssertionError:
            if name in self._serving(role):
                raise
            return ""
        return name

    def _serving(self, role: str) -> list[str]:
        pods = self.service.workers(role)
        return sorted(str(pod["metadata"]["name"]) for pod in pods if ready(pod))


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
    """Return the name of the operator's pod that holds the Lease.

    Args:
        kubectl: in the operator's namespace.
    """

    def held() -> str:
        holder = str(kubectl.read("lease", LEASE)["spec"].get("holderIdentity") or "")
        names = [
            pod["metadata"]["name"]
            for pod in kubectl.items("pods", f"app.kubernetes.io/name={OPERATOR}")
        ]
        return next((name for name in names if holder.startswith(name)), "")

    return wait_for("an operator that holds the Lease", held, seconds=90)

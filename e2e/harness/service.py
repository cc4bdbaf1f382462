"""One InferenceService on a cluster, as a test sees it: its workers, their state, its endpoint."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.kubectl import Kubectl, KubectlError, wait_for

# The sample that the README applies; its name is the service's.
SAMPLE = Path(__file__).parents[2] / "manifests/samples/smollm2.yaml"
PREFIX = "steelyard.dev/"
RESOURCE = "inferenceservices.steelyard.dev"
WORKER, ROUTER = "engine", "router"
TOKEN_FILE = "/var/run/steelyard/token/token"
START_SECONDS = 240.0

# Runs inside a worker's container: what its admin port says.
READ_STATE = f"""
import json, urllib.request
token = open("{TOKEN_FILE}").read().strip()
request = urllib.request.Request(
    "http://127.0.0.1:8001/state", headers={{"Authorization": "Bearer " + token}})
print(urllib.request.urlopen(request, timeout=5).read().decode())
"""
# The same, again and again until it has requests; a busy worker is what a fault must strike.
AWAIT_REQUEST = f"""
import json, time, urllib.request
token = open("{TOKEN_FILE}").read().strip()
request = urllib.request.Request(
    "http://127.0.0.1:8001/state", headers={{"Authorization": "Bearer " + token}})
end = time.monotonic() + 40
while time.monotonic() < end:
    state = json.load(urllib.request.urlopen(request, timeout=5))
    if state["running"]:
        break
    time.sleep(0.02)
"""
# Kills the engine: the largest child of the container's first process.
KILL_ENGINE = """
import os, pathlib, signal
def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
def memory(pid):
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
children = [int(p.name) for p in pathlib.Path("/proc").iterdir() if p.name.isdigit()]
children = [pid for pid in children if pid != 1 and parent(pid) == 1]
os.kill(max(children, key=memory), signal.SIGKILL)
"""
PRINT_STATE = "print(json.dumps(state))\n"
READ_METRICS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8080/metrics", timeout=5).read().decode())
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A service by its name."""

    kubectl: Kubectl
    name: str

    @property
    def selector(self) -> str:
        """What selects everything of the service."""
        return f"{PREFIX}service={self.name}"

    def read(self) -> dict[str, Any]:
        """Return the resource."""
        return self.kubectl.read(RESOURCE, self.name)

    def change(self, spec: Mapping[str, Any]) -> None:
        """Merge a change into the spec."""
        self.kubectl.patch(RESOURCE, self.name, {"spec": spec})

    def condition(self, kind: str) -> dict[str, Any]:
        """Return a condition; an empty one where it is missing or of an older generation."""
        resource = self.read()
        for condition in resource.get("status", {}).get("conditions", []):
            current = condition.get("observedGeneration") == resource["metadata"]["generation"]
            if condition["type"] == kind and current:
                return dict(condition)
        return {}

    def workers(self, role: str | None = None) -> list[dict[str, Any]]:
        """Return the workers' pods; with a role (prefill, decode) those that serve it now."""
        selector = f"{self.selector},app.kubernetes.io/component=worker"
        if role is not None:
            selector += f",{PREFIX}{role}=true"
        return self.kubectl.items("pods", selector)

    def routers(self) -> list[dict[str, Any]]:
        """Return the routers' pods."""
        selector = f"{self.selector},app.kubernetes.io/component=router"
        return self.kubectl.items("pods", selector)

    def state(self, pod: str) -> dict[str, Any]:
        """Return what a worker's `/state` says."""
        content: dict[str, Any] = json.loads(self._python(pod, READ_STATE + ""))
        return content

    def await_request(self, pod: str) -> dict[str, Any]:
        """Return a worker's state as soon as it has a request in it.

        Raises:
            AssertionError: it has none.
        """
        state: dict[str, Any] = json.loads(self._python(pod, AWAIT_REQUEST + PRINT_STATE))
        assert state["running"], f"no stream came to the victim {pod}: {state}"
        return state

    def kill_busy_engine(self, pod: str) -> dict[str, Any]:
        """SIGKILL the engine while it has a request; returns the state just before."""
        script = AWAIT_REQUEST + KILL_ENGINE + PRINT_STATE
        state: dict[str, Any] = json.loads(self._python(pod, script))
        return state

    def kill_engine(self, pod: str) -> None:
        """SIGKILL the engine, whatever it does."""
        self._python(pod, KILL_ENGINE)

    def _python(self, pod: str, script: str) -> str:
        return self.kubectl.execute(pod, WORKER, "python", "-c", script)

    def replays(self) -> dict[str, float]:
        """Return by router how many streams it has continued on another worker."""
        found = {}
        for pod in self.routers():
            name = pod["metadata"]["name"]
            try:
                text = self.kubectl.execute(name, ROUTER, "python", "-c", READ_METRICS)
            except KubectlError:  # It is on its way up or down.
                continue
            found[name] = sum(
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("steelyard_router:replays_total")
            )
        return found

    def url(self) -> str:
        """Return the endpoint by the Service's address, from what status says."""
        host, _, rest = self.read()["status"]["url"].removeprefix("http://").partition(".")
        port = rest.partition("/")[0].partition(":")[2] or "80"
        address = self.kubectl.read("service", host)["spec"]["clusterIP"]
        return f"http://{address}:{port}"

    def wait_steady(self, *, seconds: float = START_SECONDS) -> None:
        """Return when the service is what its spec says and nothing moves any more.

        Raises:
            NotYetError: that did not come.
        """
        wait_for(f"a steady service {self.name}", self.steady, seconds=seconds)

    def steady(self) -> bool:
        """Whether it is what its spec says and nothing moves any more."""
        spec = self.read()["spec"]
        if self.condition("Ready").get("status") != "True":
            return False
        if self.condition("Reconciling").get("status") == "True":
            return False
        expected = {role: spec[role].get("replicas", 1) for role in ("prefill", "decode")}
        pods = self.workers()
        if len(pods) != sum(expected.values()) or not all(map(ready, pods)):
            return False
        for role, replicas in expected.items():
            if sum(f"{PREFIX}{role}" in pod["metadata"]["labels"] for pod in pods) != replicas:
                return False
        routers = self.routers()
        return len(routers) == spec["router"]["replicas"] and all(map(ready, routers))


def ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod serves, and nobody has asked it to end."""
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

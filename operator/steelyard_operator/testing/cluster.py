"""What tests on a real API server play: the user, the kubelet and the workers of one namespace.

Pods do not run: their status is written as scheduler and kubelet write it, and names a loopback
address on which a stand-in answers as a worker's admin port does.
"""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from steelyard_operator.render.ports import ADMIN
from steelyard_operator.testing.forking import Fork

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "manifests/samples/smollm2.yaml"
PATIENCE_SECONDS = 30

CORE, APPS = "/api/v1/namespaces", "/apis/apps/v1/namespaces"
SERVICES = "/apis/steelyard.dev/v1alpha1/namespaces"
BUDGETS, POLICIES = "/apis/policy/v1/namespaces", "/apis/networking.k8s.io/v1/namespaces"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/{}/leases/steelyard-operator"
MERGE = "application/merge-patch+json"


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true answer; a condition is asked for until it is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"did not come true: {what}"
        time.sleep(0.03)
    return answer


class Cluster:
    """One namespace, as a user and the kubelet see it."""

    def __init__(self, api: Any, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def call(
        self,
        method: str,
        root: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        """Send one request inside the namespace; returns the answer's body."""
        reply = self.api.call(method, f"{root}/{self.namespace}/{path}", body, content_type)
        assert reply.status < 300, reply.body
        return reply.body

    def found(self, root: str, path: str) -> bool:
        """Whether there is such an object."""
        return bool(self.api.call("GET", f"{root}/{self.namespace}/{path}").status == 200)

    def names(self, root: str, plural: str) -> list[str]:
        """Return the names of all objects of a kind."""
        items = self.call("GET", root, plural)["items"]
        return sorted(item["metadata"]["name"] for item in items)

    def pods(self) -> list[dict[str, Any]]:
        """Return the workers' pods."""
        workers = "pods?labelSelector=app.kubernetes.io/component!=router"
        return list(self.call("GET", CORE, workers)["items"])

    def apply(self, name: str = "demo", **spec: Any) -> dict[str, Any]:
        """Make a service from the sample."""
        body = yaml.safe_load(SAMPLE.read_text())
        body["metadata"] = {"name": name, "namespace": self.namespace}
        body["spec"].update(spec)
        return dict(self.call("POST", SERVICES, "inferenceservices", body))

    def edit(self, change: dict[str, Any], name: str = "demo") -> None:
        """Change the service as kubectl does."""
        self.patch(SERVICES, f"inferenceservices/{name}", change)

    def patch(self, root: str, path: str, change: dict[str, Any]) -> None:
        """Merge a change into an object."""
        self.call("PATCH", root, path, change, MERGE)

    def delete(self, root: str, path: str, *, grace_seconds: int | None = None) -> None:
        """Delete an object; with 0 seconds of grace a pod is gone at once."""
        options = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        self.call("DELETE", root, path, options)

    def condition(self, kind: str, name: str = "demo") -> dict[str, Any]:
        """Return a condition of the service, or an empty one."""
        status = self.call("GET", SERVICES, f"inferenceservices/{name}").get("status", {})
        found = [c for c in status.get("conditions", []) if c["type"] == kind]
        return dict(found[0]) if found else {"status": "", "reason": "", "message": ""}

    def starts(self, pod: dict[str, Any], ip: str) -> None:
        """Bind a pod to a node and say that it runs and is ready, as scheduler and kubelet do."""
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": "node"}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}}
        self.call("POST", CORE, f"pods/{name}/binding", {**binding, "target": target})
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        self.patch(CORE, f"pods/{name}/status", {"status": status})

    def ends(self, name: str) -> None:
        """Remove a pod whose containers have ended, as the kubelet does."""
        self.delete(CORE, f"pods/{name}", grace_seconds=0)


class Worker:
    """A worker's admin port on an address of its own; it refuses what a real one refuses."""

    def __init__(self, ip: str, role: str) -> None:
        self.in_flight = 0
        self.role = role
        self.phase = "ready"
        self.epoch = 0
        self.fingerprint = "f" * 64
        self.orders: list[tuple[str, dict[str, Any]]] = []
        self.steps: dict[str, Any] | None = None
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(worker.take(self.path, body))

            def _answer(self, status: int) -> None:
                content = json.dumps(worker.state()).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((ip, ADMIN), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def state(self) -> dict[str, Any]:
        """Return the body of `GET /state`."""
        if self.phase == "draining" and self.in_flight == 0:
            self.phase = "drained"
        said = {"role": self.role, "phase": self.phase, "epoch": self.epoch}
        steps = {} if self.steps is None else {"steps": self.steps}
        return {**said, **steps, "fingerprint": self.fingerprint, "inFlight": self.in_flight}

    def take(self, path: str, body: dict[str, Any]) -> int:
        """Do what an order says; returns the status of the answer."""
        if body.get("epoch", self.epoch) < self.epoch:
            return 409
        self.epoch = body.get("epoch", self.epoch)
        if path == "/drain":
            self.phase = "draining"
        elif body["role"] not in (self.role, "both") and self.state()["phase"] != "drained":
            return 409
        else:
            self.role, self.phase = body["role"], "ready"
        self.orders.append((path, body))
        return 200

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def operating(api: Any, folder: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an operator, as a program of its own, for the time of the block."""
    log = folder / f"operator-{secrets.token_hex(2)}.log"
    command = [sys.executable, "-m", "steelyard_operator.cli", "operator"]
    variables = environment(api, folder, settings)
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=variables, stdout=output, stderr=output) as process,
        _ending(process, log),
    ):
        yield process


@contextmanager
def forked(api: Any, folder: Path, *, module: str, **settings: str) -> Iterator[Fork]:
    """Run an operator that is changed for a test, as a fork, for the time of the block."""
    log = folder / f"operator-{secrets.token_hex(2)}.log"
    log.touch()
    process = Fork(module, environment(api, folder, settings), log)
    with _ending(process, log):
        yield process


@contextmanager
def _ending(process: subprocess.Popen[bytes] | Fork, log: Path) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=30)
        except (subprocess.TimeoutExpired, TimeoutError):
            process.kill()
        print(log.read_text()[-6000:])  # noqa: T201  # pytest shows it where a test fails


def environment(api: Any, folder: Path, settings: dict[str, str]) -> dict[str, str]:
    """Return the environment of a program that finds the API server as a cluster."""
    key, kubeconfig = folder / "key", folder / "kubeconfig"
    key.write_text("k" * 32)
    cluster = {"server": api.url, "certificate-authority": str(api.certificate)}
    context = {"cluster": "c", "user": "u"}
    config = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": api.token}}],
        "contexts": [{"name": "x", "context": context}],
        "current-context": "x",
    }
    kubeconfig.write_text(yaml.safe_dump(config))
    return {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(ROOT / "operator"),
        "PYTHONUNBUFFERED": "1",
        "STEELYARD_MASTER_KEY_FILE": str(key),
        "STEELYARD_METRICS_PORT": "0",
        **settings,
    }


def release(api: Any, namespace: str) -> None:
    """Let the next operator take the Lease of a dead one without waiting for its end."""
    if holder(api, namespace):
        path = LEASE.format(namespace)
        api.call("PATCH", path, {"spec": {"holderIdentity": ""}}, MERGE)


def holder(api: Any, namespace: str = "steelyard-system") -> str:
    """Return who holds the Lease; empty where nobody does."""
    reply = api.call("GET", LEASE.format(namespace))
    return str(reply.body["spec"].get("holderIdentity", "")) if reply.status == 200 else ""

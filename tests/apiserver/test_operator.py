"""The operator as a process on a real API server; the test plays kubelet and workers.

Workers are servers on loopback addresses, one for each pod, which the pods' status names.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "manifests/samples/smollm2.yaml"
PATIENCE_SECONDS = 30
ADMIN_PORT = 8001

CORE, APPS = "/api/v1/namespaces", "/apis/apps/v1/namespaces"
SERVICES = "/apis/steelyard.dev/v1alpha1/namespaces"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/steelyard-system/leases/steelyard-operator"


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true answer; a condition is asked for until it is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"did not come true: {what}"
        time.sleep(0.05)
    return answer


class Cluster:
    """One namespace, as a user and the kubelet see it."""

    def __init__(self, api: Any, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def call(self, method: str, root: str, path: str, body: Any = None) -> Any:
        """Send one request inside the namespace; returns the answer's body."""
        reply = self.api.call(method, f"{root}/{self.namespace}/{path}", body)
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
        return list(self.call("GET", CORE, "pods")["items"])

    def apply(self, name: str = "demo", **spec: Any) -> dict[str, Any]:
        """Make a service from the sample."""
        body = yaml.safe_load(SAMPLE.read_text())
        body["metadata"] = {"name": name, "namespace": self.namespace}
        body["spec"].update(spec)
        return dict(self.call("POST", SERVICES, "inferenceservices", body))

    def edit(self, change: dict[str, Any], name: str = "demo") -> None:
        """Change the service as kubectl does."""
        self.kubectl("patch", "sis", name, "--type=merge", "-p", json.dumps(change))

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl in the namespace."""
        done = self.api.kubectl("-n", self.namespace, *arguments)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

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
        self.kubectl(
            *("patch", "pod", name, "--subresource=status", "--type=merge"),
            *("-p", json.dumps({"status": status})),
        )

    def ends(self, name: str) -> None:
        """Remove a pod whose containers have ended, as the kubelet does."""
        self.kubectl("delete", "pod", name, "--grace-period=0", "--force")


class Worker:
    """A worker's admin port on an address of its own."""

    def __init__(self, ip: str, role: str) -> None:
        self.in_flight = 0
        self.orders: list[tuple[str, dict[str, Any]]] = []
        state = {"role": role, "phase": "ready", "fingerprint": "f" * 64, "epoch": 0}
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                worker.orders.append((self.path, body))
                state["phase"] = "draining" if self.path == "/drain" else "ready"
                self._answer()

            def _answer(self) -> None:
                if state["phase"] == "draining" and worker.in_flight == 0:
                    state["phase"] = "drained"
                content = json.dumps({**state, "inFlight": worker.in_flight}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((ip, ADMIN_PORT), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def operating(api: Any, folder: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an operator for the time of the block."""
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
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(ROOT / "operator"),
        "STEELYARD_MASTER_KEY_FILE": str(key),
        "STEELYARD_METRICS_PORT": "0",
        **settings,
    }
    log = folder / f"operator-{secrets.token_hex(2)}.log"
    command = [sys.executable, "-m", "steelyard_operator.cli", "operator"]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
            print(log.read_text()[-6000:])  # noqa: T201  # pytest shows it where a test fails


def holder(api: Any) -> str:
    """Return who holds the Lease; empty where nobody does."""
    reply = api.call("GET", LEASE)
    return str(reply.body["spec"]["holderIdentity"]) if reply.status == 200 else ""


@pytest.fixture(scope="module")
def system(api: Any) -> Any:
    """An API server with the operator's own namespace."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "steelyard-system"}}
    assert api.call("POST", "/api/v1/namespaces", body).status in (201, 409)
    return api


@pytest.fixture
def cluster(system: Any) -> Cluster:
    """A namespace of the test's own."""
    name = f"test-{secrets.token_hex(4)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    assert system.call("POST", "/api/v1/namespaces", body).status == 201
    found = Cluster(system, name)
    # The admission of pods waits for it; the controller that makes it does not run here.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    found.call("POST", CORE, "serviceaccounts", account)
    return found


@pytest.fixture
def operated(cluster: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """A namespace that an operator serves."""
    with operating(cluster.api, tmp_path, STEELYARD_NAMESPACE=cluster.namespace) as process:
        eventually(lambda: process.poll() is None and holder(cluster.api), "an operator leads")
        yield cluster


def test_a_service_gets_everything_that_it_needs(operated: Cluster) -> None:
    """Pods, Services, router, budgets, policies, a template and a token; the status says so."""
    operated.apply()

    eventually(lambda: len(operated.pods()) == 2, "two pods")
    eventually(lambda: operated.condition("Reconciling")["status"] == "True", "a status")
    assert operated.names(CORE, "services") == ["demo-decode", "demo-prefill", "demo-router"]
    assert operated.names(APPS, "deployments") == ["demo-router"]
    assert len(operated.names(APPS, "controllerrevisions")) == 1
    assert operated.names(CORE, "secrets") == ["demo-token"]
    budgets = operated.names("/apis/policy/v1/namespaces", "poddisruptionbudgets")
    assert budgets == ["demo-router", "demo-workers"]
    policies = operated.names("/apis/networking.k8s.io/v1/namespaces", "networkpolicies")
    assert policies == ["demo-router", "demo-workers"]
    owners = [pod["metadata"]["ownerReferences"] for pod in operated.pods()]
    assert all(owner["controller"] and owner["blockOwnerDeletion"] for (owner,) in owners)
    events = operated.call("GET", "/apis/events.k8s.io/v1/namespaces", "events")["items"]
    assert {event["reason"] for event in events} == {"Created"}
    assert len(events) == 2


def test_nothing_is_written_to_the_resource_but_status(operated: Cluster) -> None:
    """No finalizer and no annotation: a resource goes away without the operator."""
    operated.apply()
    eventually(lambda: operated.condition("Reconciling")["status"] == "True", "a status")

    meta = operated.call("GET", SERVICES, "inferenceservices/demo")["metadata"]
    assert (meta.get("finalizers"), meta.get("annotations")) == (None, None)
    assert meta["generation"] == 1


def test_what_somebody_else_changes_is_put_right(operated: Cluster) -> None:
    """A deleted Service, a scaled router, an edited budget and a missing label come back."""
    operated.apply()
    eventually(lambda: len(operated.pods()) == 2, "two pods")

    operated.kubectl("delete", "service", "demo-decode")
    operated.kubectl("scale", "deployment", "demo-router", "--replicas=7")
    operated.kubectl("label", "networkpolicy", "demo-workers", "steelyard.dev/service-")
    spec = '{"spec":{"minAvailable":5}}'
    operated.kubectl("patch", "pdb", "demo-workers", "--type=merge", "-p", spec)

    eventually(lambda: operated.found(CORE, "services/demo-decode"), "the Service is back")

    def right() -> bool:
        deployment = operated.call("GET", APPS, "deployments/demo-router")
        networking = "/apis/networking.k8s.io/v1/namespaces"
        policy = operated.call("GET", networking, "networkpolicies/demo-workers")
        budgets = "/apis/policy/v1/namespaces"
        budget = operated.call("GET", budgets, "poddisruptionbudgets/demo-workers")
        return (
            deployment["spec"]["replicas"] == 2
            and policy["metadata"]["labels"]["steelyard.dev/service"] == "demo"
            and budget["spec"]["minAvailable"] == 0
        )

    eventually(right, "all as it was")


def test_a_lost_pod_is_made_again(operated: Cluster) -> None:
    """The new one has the role of the one that is gone."""
    operated.apply()
    eventually(lambda: len(operated.pods()) == 2, "two pods")
    before = {pod["metadata"]["uid"] for pod in operated.pods()}

    operated.kubectl("delete", "pod", "demo-0", "--grace-period=0", "--force")

    def whole() -> bool:
        labels = [pod["metadata"]["labels"] for pod in operated.pods()]
        roles = [r for r in ("prefill", "decode") for x in labels if f"steelyard.dev/{r}" in x]
        return roles == ["prefill", "decode"]

    eventually(whole, "one worker of each role")
    assert {pod["metadata"]["uid"] for pod in operated.pods()} != before


def test_an_object_of_somebody_else_is_never_touched(operated: Cluster) -> None:
    """A Service under our name stays as it is, and the status names it."""
    mine = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "demo-decode", "labels": {"mine": "yes"}},
        "spec": {"ports": [{"port": 1234}], "selector": {"app": "mine"}},
    }
    version = operated.call("POST", CORE, "services", mine)["metadata"]["resourceVersion"]
    operated.apply()

    stalled = eventually(
        lambda: (found := operated.condition("Stalled"))["status"] == "True" and found, "Stalled"
    )

    assert "Service 'demo-decode' was not made by this operator" in stalled["message"]
    after = operated.call("GET", CORE, "services/demo-decode")["metadata"]["resourceVersion"]
    assert after == version


def test_a_slot_with_a_foreign_pod_is_left_out(operated: Cluster) -> None:
    """Workers take other slots; the foreign pod lives on."""
    container = {"name": "c", "image": "mine"}
    foreign = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "demo-0"},
        "spec": {"containers": [container]},
    }
    uid = operated.call("POST", CORE, "pods", foreign)["metadata"]["uid"]
    operated.apply()

    eventually(lambda: operated.names(CORE, "pods") == ["demo-0", "demo-1", "demo-2"], "3 pods")
    assert operated.call("GET", CORE, "pods/demo-0")["metadata"]["uid"] == uid


def test_quota_is_a_reason_and_passes(operated: Cluster) -> None:
    """While no pod is admitted the service is Reconciling; with more quota it goes on."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "0"}},
    }
    operated.call("POST", CORE, "resourcequotas", quota)
    status = '{"status":{"hard":{"pods":"0"},"used":{"pods":"0"}}}'
    operated.kubectl(
        *("patch", "resourcequota", "few", "--subresource=status", "--type=merge", "-p", status)
    )
    operated.apply()

    refused = eventually(
        lambda: (
            "exceeded quota" in (found := operated.condition("Reconciling"))["message"] and found
        ),
        "the status says why",
    )
    assert refused["status"] == "True"
    operated.kubectl("delete", "resourcequota", "few")
    eventually(lambda: len(operated.pods()) == 2, "two pods")


def test_a_worker_drains_before_it_is_deleted(operated: Cluster) -> None:
    """Labels off, then POST /drain with the epoch, then nothing in flight, then DELETE."""
    spec = {"prefill": {"replicas": 1}, "decode": {"replicas": 2}}
    operated.apply(**spec)
    pods = eventually(lambda: len(found := operated.pods()) == 3 and found, "three pods")
    workers: dict[str, Worker] = {}
    try:
        for number, pod in enumerate(pods, start=2):
            role = "decode" if "steelyard.dev/decode" in pod["metadata"]["labels"] else "prefill"
            ip = f"127.77.{os.getpid() % 250}.{number}"
            workers[pod["metadata"]["name"]] = Worker(ip, role)
            workers[pod["metadata"]["name"]].in_flight = 1
            operated.starts(pod, ip)

        def fingerprinted() -> bool:
            labels = [pod["metadata"]["labels"] for pod in operated.pods()]
            return all(x.get("steelyard.dev/kv-fingerprint") == "f" * 16 for x in labels)

        eventually(fingerprinted, "every pod has its fingerprint")
        operated.edit({"spec": {"decode": {"replicas": 1}}})
        leaving = eventually(
            lambda: [name for name, worker in workers.items() if worker.orders], "a drain"
        )
        (name,) = leaving
        order = workers[name].orders[0]
        labels = operated.call("GET", CORE, f"pods/{name}")["metadata"]["labels"]
        assert not {"steelyard.dev/decode", "steelyard.dev/prefill"} & set(labels)
        assert order[0] == "/drain"
        assert order[1]["epoch"] >= 1

        meta = operated.call("GET", CORE, f"pods/{name}")["metadata"]
        assert "deletionTimestamp" not in meta
        workers[name].in_flight = 0
        eventually(
            lambda: "deletionTimestamp" in operated.call("GET", CORE, f"pods/{name}")["metadata"],
            "the empty worker is deleted",
        )
        operated.ends(name)
        eventually(lambda: len(operated.pods()) == 2, "two pods")
    finally:
        for worker in workers.values():
            worker.close()


def test_a_new_operator_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """A restart reads; every object keeps its resource version."""
    settings = {"STEELYARD_NAMESPACE": cluster.namespace}

    def versions() -> dict[str, str]:
        found = {}
        for root, plural in (
            (CORE, "pods"),
            (CORE, "services"),
            (APPS, "deployments"),
            (APPS, "controllerrevisions"),
            ("/apis/policy/v1/namespaces", "poddisruptionbudgets"),
            ("/apis/networking.k8s.io/v1/namespaces", "networkpolicies"),
            (SERVICES, "inferenceservices"),
        ):
            for item in cluster.call("GET", root, plural)["items"]:
                meta = item["metadata"]
                found[f"{plural}/{meta['name']}"] = meta["resourceVersion"]
        return found

    with operating(cluster.api, tmp_path, **settings):
        cluster.apply()
        eventually(lambda: cluster.condition("Reconciling")["status"] == "True", "a status")
        eventually(lambda: len(cluster.pods()) == 2, "two pods")
        time.sleep(1.5)  # There is no sign of an operator that does nothing more.
        before = versions()
    with operating(cluster.api, tmp_path, **settings):
        # A second service is seen after the first one: then the first one's pass is over too.
        eventually(lambda: holder(cluster.api), "the new operator leads")
        cluster.apply("later")
        eventually(lambda: len(cluster.pods()) == 4, "the pods of another service")
        after = versions()

    assert {name: after.get(name) for name in before} == before


def test_sigterm_gives_the_lease_back(cluster: Cluster, tmp_path: Path) -> None:
    """The process ends with 0, and the next one has a higher epoch without waiting."""
    settings = {"STEELYARD_NAMESPACE": cluster.namespace}
    epochs = []
    for _ in range(2):
        with operating(cluster.api, tmp_path, **settings) as process:
            eventually(lambda: holder(cluster.api), "an operator leads")
            epochs.append(cluster.api.call("GET", LEASE).body["spec"]["leaseTransitions"])
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        assert holder(cluster.api) == ""

    assert epochs[1] == epochs[0] + 1


def test_a_second_operator_waits_until_the_first_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    """After `kill -9` the Lease runs out, and the other one serves."""
    settings = {"STEELYARD_NAMESPACE": cluster.namespace, "STEELYARD_LEASE_SECONDS": "3"}
    with operating(cluster.api, tmp_path, **settings) as first:
        leader = eventually(lambda: holder(cluster.api), "an operator leads")
        with operating(cluster.api, tmp_path, **settings) as second:
            cluster.apply()
            eventually(lambda: len(cluster.pods()) == 2, "two pods")
            assert holder(cluster.api) == leader
            first.kill()
            eventually(lambda: holder(cluster.api) != leader, "the other operator leads")
            cluster.edit({"spec": {"decode": {"replicas": 2}}})
            eventually(lambda: len(cluster.pods()) == 3, "three pods")
            assert second.poll() is None


def test_suspend_keeps_hands_off(operated: Cluster) -> None:
    """A Service that is deleted meanwhile comes back only afterwards."""
    operated.apply()
    eventually(lambda: len(operated.pods()) == 2, "two pods")
    operated.edit({"spec": {"suspend": "Enabled"}})

    def generation() -> int:
        status = operated.call("GET", SERVICES, "inferenceservices/demo")["status"]
        return int(status["observedGeneration"])

    eventually(lambda: generation() == 2, "the switch was seen")
    operated.kubectl("delete", "service", "demo-decode")
    operated.edit({"spec": {"cost": None}})
    eventually(lambda: generation() == 3, "a pass after the deletion")
    assert not operated.found(CORE, "services/demo-decode")

    operated.edit({"spec": {"suspend": "Disabled"}})
    eventually(lambda: operated.found(CORE, "services/demo-decode"), "the Service is back")

"""The cluster of a run: a kind cluster of its own, or an existing one.

An existing cluster must be meant for this: its context's name starts with `steelyard-`. What only
a cluster of our own allows (its API server killed) is a capability that a scenario asks for.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness import audit
from harness.kubectl import Kubectl, wait_for

ROOT = Path(__file__).parents[2]
NAME = "steelyard-e2e"
NAMESPACE = "steelyard"
# Where the operator lives; it serves NAMESPACE.
OPERATOR_NAMESPACE = "steelyard-system"
OVERLAY = ROOT / "manifests/overlays/kind"
IMAGES = ("steelyard-operator:dev", "steelyard-runtime:dev", "steelyard-router:dev")
CONTEXT_PREFIX = "steelyard-"
OPERATOR = "steelyard-operator"
KIND_CONFIG = """\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
  - role: control-plane
  - role: worker
"""
# Kills the process by its name as the kernel has it; a node image need not have pkill.
KILL_API_SERVER = """
for name in /proc/[0-9]*/comm; do
  if [ "$(cat "$name" 2>/dev/null)" = kube-apiserver ]; then
    pid=${name#/proc/}; kill -9 "${pid%/comm}"; fi
done
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster with an operator in it."""

    kubectl: Kubectl
    driver_image: str
    operator: Kubectl
    """Calls in the operator's own namespace."""
    kind: bool = False

    @property
    def nodes(self) -> list[str]:
        """The nodes that pods can be scheduled on; those of the control plane come first."""
        found = sorted(
            self.kubectl.items("nodes"),
            key=lambda node: (
                "node-role.kubernetes.io/control-plane" not in node["metadata"]["labels"]
            ),
        )
        return [node["metadata"]["name"] for node in found]

    def restart_api_server(self) -> None:
        """Kill the API server; the kubelet starts it again. Returns when it answers again."""
        _in_node(KILL_API_SERVER)
        wait_for("an API server that answers", self.kubectl.answers, seconds=120)

    def operator_requests(self) -> list[tuple[str, int]]:
        """Return verb and resource of the operator's requests, and the status codes."""
        return audit.requests(_in_node)


@contextmanager
def own_kind_cluster(folder: Path, *, keep: bool) -> Iterator[Cluster]:
    """A kind cluster with our images and the operator; deleted at the end unless it is kept."""
    for program in ("docker", "kind", "kubectl"):
        assert shutil.which(program), f"--cluster=kind needs {program} in PATH"
    kubeconfig = folder / "kubeconfig"
    environment = {"KUBECONFIG": str(kubeconfig)}
    kubectl = Kubectl(f"kind-{NAME}", NAMESPACE, environment)
    there = NAME in _run("kind", "get", "clusters").split()
    if there and not keep:
        _run("kind", "delete", "cluster", "--name", NAME)
    try:
        if there and keep:
            _run("kind", "export", "kubeconfig", "--name", NAME, "--kubeconfig", str(kubeconfig))
        else:
            _create(folder, kubeconfig)
        _run("kind", "load", "docker-image", "--name", NAME, *IMAGES)
        operator = replace(kubectl, namespace=OPERATOR_NAMESPACE)
        install(operator)
        yield Cluster(kubectl, driver_image=IMAGES[2], operator=operator, kind=True)
    finally:
        if not keep:
            _run("kind", "delete", "cluster", "--name", NAME)


def _create(folder: Path, kubeconfig: Path) -> None:
    config = folder / "kind.yaml"
    config.write_text(KIND_CONFIG)
    image = os.environ.get("KIND_NODE_IMAGE")
    _run(
        *("kind", "create", "cluster", "--name", NAME, "--config", str(config)),
        *("--kubeconfig", str(kubeconfig), "--wait", "180s"),
        *(("--image", image) if image else ()),
    )
    # Two nodes are enough if both take pods.
    kubectl = Kubectl(f"kind-{NAME}", NAMESPACE, {"KUBECONFIG": str(kubeconfig)})
    taint = "node-role.kubernetes.io/control-plane:NoSchedule-"
    kubectl("taint", "nodes", "--selector", "node-role.kubernetes.io/control-plane", taint)
    audit.begin(_in_node, OPERATOR_NAMESPACE, kubectl.answers)


def install(operator: Kubectl) -> None:
    """Install the CRD and the operator as the README says, and wait until it runs."""
    # The overlay has objects of the operator's namespace and of the served one.
    replace(operator, namespace="")("apply", "--kustomize", str(OVERLAY), timeout=120)
    operator("wait", "--for=condition=Established", "crd/inferenceservices.steelyard.dev")
    # A kept cluster may still run the images of the last time.
    operator("rollout", "restart", f"deployment/{OPERATOR}")
    operator("rollout", "status", f"deployment/{OPERATOR}", "--timeout=180s", timeout=200)


def existing_cluster(namespace: str, driver_image: str, operator_namespace: str) -> Cluster:
    """The cluster of the current context, where an operator is installed already.

    Raises:
        AssertionError: the context is not meant for tests, or there is no operator.
    """
    context = _run("kubectl", "config", "current-context").strip()
    assert context.startswith(CONTEXT_PREFIX), (
        f"--cluster=current uses contexts that start with '{CONTEXT_PREFIX}', got '{context}'; "
        f"to mark it as yours to break: "
        f"kubectl config rename-context {context} {CONTEXT_PREFIX}{context}"
    )
    operator = Kubectl(context, operator_namespace)
    operator("rollout", "status", f"deployment/{OPERATOR}", "--timeout=60s", timeout=90)
    return Cluster(Kubectl(context, namespace), driver_image, operator)


def _in_node(script: str) -> str:
    return _run("docker", "exec", f"{NAME}-control-plane", "sh", "-c", script)


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout

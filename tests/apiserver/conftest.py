"""A real API server without a cluster: etcd and kube-apiserver from the folder `$KUBE_ASSETS`."""

import json
import os
import secrets
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from steelyard_operator.testing.cluster import CORE, Cluster
from steelyard_operator.testing.programs import free_ports, running

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds/steelyard.dev_inferenceservices.yaml"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
START_SECONDS = 60
# What service accounts do is written down; tests compare it with the rights that they are given.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
}
WITHOUT_ASSETS = (
    "KUBE_ASSETS is not set: tests against an API server need the folder with the binaries etcd, "
    "kube-apiserver and kubectl"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API server answered."""

    status: int
    body: dict[str, Any]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A client of the API server, with all rights."""

    url: str
    token: str
    certificate: Path
    programs: Path

    @property
    def audit_log(self) -> Path:
        """What service accounts have asked for, as lines of JSON."""
        return self.certificate.parent / "audit.log"

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Reply:
        """Send one request; any status is an answer."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": content_type,
                "Accept": "application/json",
            },
        )
        try:
            with self._open(request) as answer:
                warnings = answer.headers.get_all("Warning") or []
                return Reply(answer.status, json.load(answer), warnings)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
            # What no handler has is refused in plain text.
            is_json = error.headers.get_content_type() == "application/json"
            return Reply(error.code, json.loads(text) if is_json else {}, [])

    def ready(self) -> bool:
        """Whether the server takes requests."""
        request = urllib.request.Request(
            f"{self.url}/readyz", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with self._open(request) as answer:
                return bool(answer.status == 200)
        except (OSError, ssl.SSLError):
            return False

    def kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run kubectl as a user does."""
        return subprocess.run(
            [
                str(self.programs / "kubectl"),
                f"--server={self.url}",
                f"--token={self.token}",
                f"--certificate-authority={self.certificate}",
                *arguments,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"HOME": str(self.certificate.parent), "PATH": os.environ["PATH"]},
        )

    def _open(self, request: urllib.request.Request) -> Any:
        context = ssl.create_default_context(cafile=str(self.certificate))
        return urllib.request.urlopen(request, timeout=30, context=context)


@pytest.fixture(scope="session")
def empty_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server that knows nothing of Steelyard."""
    assets = os.environ.get("KUBE_ASSETS")
    if not assets:
        pytest.skip(WITHOUT_ASSETS)
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: the API server of the tests needs a key")
    programs = Path(assets)
    folder = tmp_path_factory.mktemp("apiserver")
    client, peer, port = free_ports(3)
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    (folder / "audit.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
    key = folder / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    store = [
        *(str(programs / "etcd"), "--data-dir", str(folder / "etcd"), "--log-level", "warn"),
        *("--listen-client-urls", f"http://127.0.0.1:{client}", "--unsafe-no-fsync"),
        *("--advertise-client-urls", f"http://127.0.0.1:{client}"),
        *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
    ]
    server = [
        str(programs / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{client}",
        f"--cert-dir={folder}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://localhost",
        f"--audit-policy-file={folder / 'audit.yaml'}",
        f"--audit-log-path={folder / 'audit.log'}",
    ]
    api = ApiServer(f"https://127.0.0.1:{port}", token, folder / "apiserver.crt", programs)
    log = folder / "apiserver.log"
    with running(store, folder / "etcd.log"), running(server, log) as process:
        wait_until(api.ready, lambda: process.poll() is None, log)
        yield api


@pytest.fixture(scope="session")
def api(empty_api: ApiServer) -> ApiServer:
    """An API server that has accepted the CRD and serves it."""
    reply = empty_api.call("POST", CRDS, yaml.safe_load(CRD.read_text()))
    assert reply.status == 201, reply.body["message"]
    name = reply.body["metadata"]["name"]

    def established() -> bool:
        conditions = empty_api.call("GET", f"{CRDS}/{name}").body.get("status", {})
        found = {c["type"]: c["status"] for c in conditions.get("conditions") or []}
        path = "/apis/steelyard.dev/v1alpha1/inferenceservices"
        return found.get("Established") == "True" and empty_api.call("GET", path).status == 200

    wait_until(established, lambda: True, CRD)
    return empty_api


@pytest.fixture(scope="session")
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
def settings(cluster: Cluster) -> dict[str, str]:
    """An operator of this namespace alone, with a Lease of its own there."""
    return {
        "STEELYARD_NAMESPACE": cluster.namespace,
        "STEELYARD_OPERATOR_NAMESPACE": cluster.namespace,
    }


def wait_until(condition: Any, alive: Any, log: Path) -> None:
    """Return once a condition holds; a program that ends first fails with its last words."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if not alive() or time.monotonic() > deadline:
            pytest.fail("the API server did not start:\n" + log.read_text()[-2000:])
        time.sleep(0.1)

"""A cluster without machines: etcd, kube-apiserver, controllers, scheduler and kwok as programs.

kwok plays the kubelets: its nodes and pods exist in the API server alone. Pods get loopback
addresses, on which stand-ins answer.
"""

import asyncio
import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from steelyard_operator.errors import OperatorError
from steelyard_operator.kube import credentials
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.kinds import POD
from steelyard_operator.testing.programs import free_ports, running

# Loopback addresses for 65,000 pods.
POD_ADDRESSES = "127.64.0.1/16"
START_SECONDS = 60.0
# Those that make routers' pods and budgets' counts. The one of endpoints takes no loopback address.
CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "disruption-controller",
    "serviceaccount-controller",
)
# With its 20 requests a second by default a scheduler would be all that is measured.
QUICK = ("--kube-api-qps=300", "--kube-api-burst=600", "--leader-elect=false", "--secure-port=0")
USERS = ("bench", "controllers", "scheduler", "kwok", "standins")
OPERATOR_NAMESPACE, OPERATOR_ACCOUNT = "steelyard-system", "steelyard-operator"
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "Metadata",
            "users": [f"system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR_ACCOUNT}"],
        },
        {"level": "None"},
    ],
}


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Programs that run, and how they are reached."""

    programs: Path
    folder: Path
    port: int
    tokens: dict[str, str]

    @property
    def audit_log(self) -> Path:
        """What the operator asked for, a line of JSON a request."""
        return self.folder / "audit.log"

    def kubeconfig(self, user: str, token: str | None = None) -> Path:
        """Write how a user reaches the API server; returns the file."""
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self.folder / "apiserver.crt"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token or self.tokens[user]}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = self.folder / f"kubeconfig-{user}"
        path.write_text(yaml.safe_dump(config))
        return path

    async def client(self, user: str) -> Client:
        """Return a client; `async with` opens it."""
        return Client(await credentials.load({"KUBECONFIG": str(self.kubeconfig(user))}))

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Run kubectl; returns what it prints."""
        command = [str(self.programs / "kubectl"), "--kubeconfig", str(self.kubeconfig("bench"))]
        done = subprocess.run(
            [*command, *arguments], input=given, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise OperatorError(f"kubectl {arguments[0]}: {done.stderr.strip()}")
        return done.stdout


@asynccontextmanager
async def control_plane(programs: Path, folder: Path) -> AsyncIterator[ControlPlane]:
    """Run all programs for the time of the block.

    Raises:
        OperatorError: the API server does not answer.
    """
    store, peer, port = free_ports(3)
    tokens = {user: secrets.token_hex(16) for user in USERS}
    plane = ControlPlane(programs, folder, port, tokens)
    lines = [f'{token},{user},{user},"system:masters"\n' for user, token in tokens.items()]
    (folder / "tokens.csv").write_text("".join(lines))
    (folder / "audit.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
    key = _signing_key(folder)
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> None:
            stack.enter_context(running([str(programs / name), *arguments], folder / f"{name}.log"))

        start(
            "etcd",
            *("--data-dir", str(folder / "etcd"), "--log-level", "warn", "--unsafe-no-fsync"),
            *("--quota-backend-bytes", str(8 << 30)),
            *("--listen-client-urls", f"http://127.0.0.1:{store}"),
            *("--advertise-client-urls", f"http://127.0.0.1:{store}"),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
        )
        start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{store}",
            f"--cert-dir={folder}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            # A machine without a network has no address of its own to be found.
            *("--advertise-address=10.96.255.254", "--endpoint-reconciler-type=none"),
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            # kwok's nodes are ready at once, and no controller here would take the taint away.
            "--disable-admission-plugins=TaintNodesByCondition",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://localhost",
            f"--audit-policy-file={folder / 'audit.yaml'}",
            f"--audit-log-path={plane.audit_log}",
        )
        await _answers(plane)
        start(
            "kube-controller-manager",
            *("--kubeconfig", str(plane.kubeconfig("controllers")), *QUICK),
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={key}",
        )
        start("kube-scheduler", "--kubeconfig", str(plane.kubeconfig("scheduler")), *QUICK)
        start(
            "kwok",
            *("--kubeconfig", str(plane.kubeconfig("kwok")), "--manage-all-nodes"),
            *("--cidr", POD_ADDRESSES, "--node-lease-duration-seconds", "0"),
        )
        yield plane


def _signing_key(folder: Path) -> Path:
    """Make the key of service accounts' tokens."""
    key = folder / "sa.key"
    command = ["openssl", "genrsa", "-out", str(key), "2048"]
    subprocess.run(command, check=True, capture_output=True)
    return key


async def _answers(plane: ControlPlane) -> None:
    """Wait until the API server does what it is asked."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            async with await plane.client("bench") as client:
                async for _ in client.list_pages(POD, None, page_size=1):
                    pass
            return
        except (OperatorError, OSError) as error:
            if time.monotonic() > deadline:
                log = (plane.folder / "kube-apiserver.log").read_text()[-2000:]
                raise OperatorError(f"the API server did not start: {error}\n{log}") from None
        await asyncio.sleep(0.2)

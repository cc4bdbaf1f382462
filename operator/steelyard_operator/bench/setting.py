"""What is there before the operator: nodes, namespaces, rights, and the services themselves."""

import asyncio
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from steelyard_operator.api.names import API_VERSION, KIND
from steelyard_operator.bench.control_plane import (
    OPERATOR_ACCOUNT,
    OPERATOR_NAMESPACE,
    ControlPlane,
)
from steelyard_operator.bench.options import Options
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.kinds import INFERENCE_SERVICE

ROOT = Path(__file__).parents[3]
CRD = ROOT / "crds/steelyard.dev_inferenceservices.yaml"
OVERLAY = ROOT / "manifests/overlays/cluster-wide"
PODS_PER_NODE, SERVICES_PER_NAMESPACE = 200, 50
AT_A_TIME = 20
# The one that the base serves; the operator's own is part of the overlay.
SERVED_NAMESPACE = "steelyard"
ROUTER_ACCOUNT = "steelyard-router"
# The operator runs as a program of the bench, so of its installation the rights are left.
NOT_INSTALLED = {"Deployment", "PodDisruptionBudget", "ConfigMap"}


def prepare(plane: ControlPlane, options: Options) -> Path:
    """Make what a user has before there is a service; returns the operator's kubeconfig."""
    plane.kubectl("apply", "--filename", str(CRD))
    rendered = list(yaml.safe_load_all(plane.kubectl("kustomize", str(OVERLAY))))
    objects = [_namespace(SERVED_NAMESPACE)]
    objects += [each for each in rendered if each["kind"] not in NOT_INSTALLED]
    for name in sorted({where(number) for number in range(options.services)}):
        objects += [_namespace(name), _account(name)]
    pods = (options.workers + options.routers) * 1.2 + options.services
    objects += [_node(number) for number in range(math.ceil(pods / PODS_PER_NODE))]
    plane.kubectl("create", "--filename", "-", given=yaml.safe_dump_all(objects))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "--filename", str(CRD))
    arguments = ("create", "token", OPERATOR_ACCOUNT, "--namespace", OPERATOR_NAMESPACE)
    return plane.kubeconfig("operator", plane.kubectl(*arguments, "--duration=24h").strip())


async def make_services(client: Client, options: Options, numbers: Iterable[int]) -> None:
    """Make services, as many users would."""
    places = asyncio.Semaphore(AT_A_TIME)

    async def make(number: int) -> None:
        async with places:
            await client.create(INFERENCE_SERVICE, service(options, number))

    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(make(number))


def service(options: Options, number: int) -> dict[str, Any]:
    """Return a service whose planner runs, and finds that its number of workers is right."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": options.name(number), "namespace": where(number)},
        "spec": {
            "model": {"uri": "file:///models/checkpoint", "servedName": "model"},
            "prefill": {"replicas": options.prefill},
            "decode": {
                "minReplicas": options.decode,
                "maxReplicas": options.decode + 1,
                "initialReplicas": options.decode,
            },
            "capacity": {"maxAccelerators": options.prefill + options.decode + 2},
            "objectives": {"ttftMilliseconds": 1000, "tpotMilliseconds": 50},
            "cost": {"currency": "USD", "acceleratorHourly": "2"},
        },
    }


def where(number: int) -> str:
    """Return the namespace of a service, by its number."""
    return f"team-{number // SERVICES_PER_NAMESPACE:02d}"


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _account(namespace: str) -> dict[str, Any]:
    meta = {"name": ROUTER_ACCOUNT, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}


def _node(number: int) -> dict[str, Any]:
    name = f"node-{number:03d}"
    capacity = {"cpu": "4k", "memory": "16Ti", "pods": str(PODS_PER_NODE)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"capacity": capacity, "allocatable": capacity},
    }

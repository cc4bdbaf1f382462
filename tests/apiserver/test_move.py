"""An operator that lived beside its services moves into a namespace of its own; pods stay."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from steelyard_operator.testing.cluster import (
    APPS,
    CORE,
    LEASE,
    POLICIES,
    Cluster,
    environment,
    eventually,
    holder,
    operating,
)
from steelyard_operator.testing.life import life

ROOT = Path(__file__).parents[2]
KEY = "k" * 32


def move(cluster: Cluster, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as an administrator does."""
    programs = f"{cluster.api.programs}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(ROOT / "manifests/move-operator"), *arguments],
        env={**environment(cluster.api, folder, {}), "PATH": programs},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def epoch(cluster: Cluster, namespace: str) -> int:
    """Return the number of a Lease's holders."""
    return int(cluster.api.call("GET", LEASE.format(namespace)).body["spec"]["leaseTransitions"])


def uids(cluster: Cluster) -> set[str]:
    """Return who the workers and the routers' Deployment are, and what routers are made from."""
    routers = cluster.call("GET", APPS, "deployments/demo-router")
    pods = {pod["metadata"]["uid"] for pod in cluster.pods()}
    return pods | {routers["metadata"]["uid"], yaml.safe_dump(routers["spec"]["template"])}


@pytest.fixture
def old(cluster: Cluster) -> str:
    """What an installation inside the served namespace consists of, as far as it matters here."""
    meta = {"name": "steelyard-operator"}
    cluster.call(
        "POST",
        CORE,
        "secrets",
        {"metadata": {"name": "steelyard-master-key"}, "stringData": {"key": KEY}},
    )
    labels = {"app.kubernetes.io/name": "steelyard-operator"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    deployment = {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod}
    cluster.call("POST", APPS, "deployments", {"metadata": meta, "spec": deployment})
    cluster.call("POST", CORE, "serviceaccounts", {"metadata": meta})
    cluster.call(
        "POST", CORE, "configmaps", {"metadata": {"name": "steelyard-operator-9b92tgm5dc"}}
    )
    return cluster.namespace


def test_a_move_restarts_nothing_and_the_epoch_grows(
    cluster: Cluster, old: str, tmp_path: Path
) -> None:
    """Ended, copied, begun elsewhere: the same pods, one leader at a time, and what is old goes."""
    new = f"{old}-system"
    common = {"STEELYARD_NAMESPACE": old}
    with life(cluster, 4) as found:
        with operating(cluster.api, tmp_path, STEELYARD_OPERATOR_NAMESPACE=old, **common):
            cluster.apply(capacity={"maxAccelerators": 4})
            eventually(lambda: found.steady(1, 1), "two workers")
        before, old_epoch = uids(cluster), epoch(cluster, old)

        prepared = move(cluster, tmp_path, "prepare", old, new)
        assert prepared.returncode == 0, prepared.stderr
        assert cluster.call("GET", APPS, "deployments/steelyard-operator")["spec"]["replicas"] == 0
        assert move(cluster, tmp_path, "finish", old, new).returncode == 1, "nobody leads there yet"
        elsewhere = Cluster(cluster.api, new)
        key = elsewhere.call("GET", CORE, "secrets/steelyard-master-key")["data"]
        assert key == cluster.call("GET", CORE, "secrets/steelyard-master-key")["data"]

        moved = {
            "STEELYARD_OPERATOR_NAMESPACE": new,
            "STEELYARD_FORMER_OPERATOR_NAMESPACE": old,
            **common,
        }
        with operating(cluster.api, tmp_path, **moved):
            eventually(lambda: holder(cluster.api, new), "the new operator leads")
            assert epoch(cluster, new) > old_epoch
            eventually(lambda: new in admitted(cluster), "the workers' policy admits it")
            assert old in admitted(cluster)
            finished = move(cluster, tmp_path, "finish", old, new)
            assert finished.returncode == 0, finished.stderr

            cluster.edit({"spec": {"decode": {"replicas": 2}}})
            eventually(lambda: found.steady(1, 2), "a worker more, by the new operator")

        assert before <= uids(cluster), "a worker or a router was replaced"
    assert not cluster.found(APPS, "deployments/steelyard-operator")
    assert not [name for name in cluster.names(CORE, "secrets") if "master-key" in name]
    assert cluster.names(CORE, "configmaps") == []
    assert not holder(cluster.api, old)


def admitted(cluster: Cluster) -> set[str]:
    """Return the namespaces whose operator may call the workers."""
    policy: dict[str, Any] = cluster.call("GET", POLICIES, "networkpolicies/demo-workers")
    return {
        peer["namespaceSelector"]["matchLabels"].get("kubernetes.io/metadata.name", "")
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
        if "namespaceSelector" in peer
    }

"""The previous release's operator makes a service; this one takes it over and restarts nothing.

The previous release is the newest tag before this revision, or `$UPGRADE_FROM`. As long as there is
no tag it is an earlier revision.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard_operator.testing.cluster import APPS, Cluster, eventually, holder, operating
from steelyard_operator.testing.life import life

ROOT = Path(__file__).parents[2]
# The operator that first ran the planner.
FIRST = "30ed554"


@pytest.fixture
def previous(tmp_path: Path) -> str:
    """The previous release's modules, as a value for PYTHONPATH."""
    tag = git("describe", "--tags", "--abbrev=0", "HEAD^").decode().strip()
    revision = os.environ.get("UPGRADE_FROM") or tag or FIRST
    packages = ("operator", "runtime", "kernels")
    archive = git("archive", revision, *packages)
    if not archive:
        pytest.skip(
            f"the history here has no revision {revision}: it is a shallow clone or no clone"
        )
    folder = tmp_path / "previous"
    folder.mkdir()
    subprocess.run(["tar", "--extract"], input=archive, cwd=folder, check=True)
    paths = os.pathsep.join(str(folder / package) for package in packages)
    where = subprocess.run(
        [sys.executable, "-c", "import steelyard_operator; print(steelyard_operator.__file__)"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(folder)), "the previous release would not be what runs"
    return paths


def git(*arguments: str) -> bytes:
    """Return what git prints; nothing where it fails."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, check=False).stdout


def test_an_upgrade_restarts_no_pod(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path, previous: str
) -> None:
    """Workers and routers stay; what is asked for afterwards is done by the new operator."""
    with life(cluster, 4) as found:
        with operating(cluster.api, tmp_path, PYTHONPATH=previous, **settings):
            cluster.apply(capacity={"maxAccelerators": 4})
            eventually(lambda: found.steady(1, 1), "two workers")
        pods, routers, stored = uids(cluster), templates(cluster), revisions(cluster)
        assert routers

        with operating(cluster.api, tmp_path, **settings):
            eventually(lambda: holder(cluster.api, cluster.namespace), "the new operator leads")
            # Its pass over the service comes before the pods of a later change.
            cluster.edit({"spec": {"decode": {"replicas": 2}}})
            eventually(lambda: found.steady(1, 2), "a worker more")

            assert pods < uids(cluster), "a worker was replaced"
            assert templates(cluster) == routers, "the routers were replaced"
            assert revisions(cluster) == stored, "a template was replaced"
            assert all(sealed for _, sealed in sealed_revisions(cluster)), "not taken over"
            if "worker-key" in str(routers):
                return  # that release has the key already
            assert "worker-key" not in str(cluster.pods()), "the routers would be locked out"

            # A template that has to be new brings the key, and workers then ask for it.
            cluster.edit({"spec": {"rollout": {"drainSeconds": 9}}})
            eventually(
                lambda: found.steady(1, 2) and not pods & uids(cluster), "the workers are replaced"
            )
            assert "worker-key" in str(templates(cluster))
            assert all("worker-key" in str(pod["spec"]) for pod in cluster.pods())


def uids(cluster: Cluster) -> set[str]:
    """Return the workers' pods."""
    return {pod["metadata"]["uid"] for pod in cluster.pods()}


def revisions(cluster: Cluster) -> dict[str, object]:
    """Return what workers are made from, by the object's uid."""
    items = cluster.call("GET", APPS, "controllerrevisions")["items"]
    return {item["metadata"]["uid"]: item["data"] for item in items}


def sealed_revisions(cluster: Cluster) -> list[tuple[str, bool]]:
    """Return the revisions, and whether each shows that our operator believes it."""
    items = cluster.call("GET", APPS, "controllerrevisions")["items"]
    return [
        (item["metadata"]["name"], "steelyard.dev/seal" in item["metadata"].get("annotations", {}))
        for item in items
    ]


def templates(cluster: Cluster) -> dict[str, object]:
    """Return what the routers' pods are made from."""
    items = cluster.call("GET", APPS, "deployments")["items"]
    return {item["metadata"]["name"]: item["spec"]["template"] for item in items}

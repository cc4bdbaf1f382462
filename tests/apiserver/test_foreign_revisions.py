"""What somebody else wrote under the name of a revision never becomes a pod."""

import copy
from pathlib import Path
from typing import Any

from steelyard_operator.api.load import read
from steelyard_operator.api.names import Role
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.revision import controller_revision, inputs, revision_hash
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings
from steelyard_operator.testing.cluster import (
    APPS,
    SERVICES,
    Cluster,
    eventually,
    operating,
)
from steelyard_operator.testing.life import life

CHANGE = {"runtime": {"env": [{"name": "TURN", "value": "1"}]}}


def planted(service: dict[str, Any], *, controlled: bool) -> dict[str, Any]:
    """Return a revision that only its template tells from a real one."""
    meta = service["metadata"]
    wanted = read(service)
    template = worker_template(wanted, Settings(), Role.DECODE)
    template["spec"]["containers"][0]["image"] = "planted"
    owner = Owner(meta["name"], meta["namespace"], meta.get("uid", ""))
    hash = revision_hash(wanted, Role.DECODE)
    body = controller_revision(owner, template, hash, 1, inputs=inputs(wanted, Role.DECODE))
    if not controlled:
        del body["metadata"]["ownerReferences"]
    return body


def images(cluster: Cluster) -> set[str]:
    """Return what the workers run."""
    return {pod["spec"]["containers"][0]["image"] for pod in cluster.pods()}


def test_a_planted_revision_is_replaced_and_one_of_nobody_is_told_of(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    """With our reference, or before there is a service at all; a service beside it is served."""
    with life(cluster, 4) as found, operating(cluster.api, tmp_path, **settings):
        service = cluster.apply(capacity={"maxAccelerators": 4})
        eventually(lambda: found.steady(1, 1), "two workers")
        changed = copy.deepcopy(service)
        changed["spec"] |= CHANGE
        cluster.call("POST", APPS, "controllerrevisions", planted(changed, controlled=True))
        cluster.edit({"spec": CHANGE})
        eventually(lambda: found.runs("TURN", "1") and found.steady(1, 1), "rolled out")
        assert "planted" not in images(cluster)

        other = {**service, "metadata": {"name": "other", "namespace": cluster.namespace}}
        revision = planted(other, controlled=False)
        cluster.call("POST", APPS, "controllerrevisions", revision)
        made = {key: other[key] for key in ("apiVersion", "kind", "metadata", "spec")}
        cluster.call("POST", SERVICES, "inferenceservices", made)
        sentence = "not this operator's; delete it"
        eventually(
            lambda: sentence in cluster.condition("Stalled", "other")["message"],
            "the foreign object is told",
        )
        assert not [pod for pod in cluster.pods() if pod["metadata"]["name"].startswith("other")]

        cluster.delete(APPS, f"controllerrevisions/{revision['metadata']['name']}")
        # Nobody tells of a revision that is not ours.
        cluster.edit({"spec": {"decode": {"replicas": 2}}}, "other")
        eventually(lambda: len(cluster.pods()) == 5, "workers of the other service")
        assert "planted" not in images(cluster)

"""Every object of every sample, as golden files: a reviewer reads the difference.

All of them for the plainest service; for others what differs from it.
`STEELYARD_UPDATE_GOLDEN=1 pytest tests/operator/render` writes them anew.
"""

import copy
import os
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from steelyard_operator.api.load import load
from steelyard_operator.plain_yaml import PlainDumper
from steelyard_operator.render.everything import everything
from steelyard_operator.settings import Settings

SAMPLES = sorted((Path(__file__).parents[3] / "manifests/samples").glob("*.yaml"))
GOLDEN = Path(__file__).with_name("testdata")
KUBERNETES = "1.34"

# Hosts that the samples' credentials go to.
HOSTS = ("hub.example", "objects.example")
# A site with everything that an operator can be set to.
SITE = Settings(
    operator_namespace="steelyard",
    worker_image="mirror.example/steelyard-runtime:1",
    router_image="mirror.example/steelyard-router:1",
    image_pull_secrets=("mirror",),
    https_proxy="http://proxy.example:3128",
    no_proxy=".cluster.local,10.0.0.0/8",
    ca_config_map="site-ca",
    spread_topology_key="topology.kubernetes.io/zone",
    model_cache_claim="models",
    credential_hosts=HOSTS,
)
PLAINEST = "smollm2"
CASES = {
    **{path.stem: (path, Settings(credential_hosts=HOSTS)) for path in SAMPLES},
    "hugging-face-at-a-site": (SAMPLES[0].with_name("hugging-face.yaml"), SITE),
    "s3-on-the-node": (
        SAMPLES[0].with_name("s3.yaml"),
        Settings(
            model_cache_host_path="/var/lib/steelyard",
            spread_topology_key="",
            credential_hosts=HOSTS,
        ),
    ),
}


def objects(case: str) -> tuple[dict[str, Any], ...]:
    """The objects of a sample."""
    path, settings = CASES[case]
    return everything(load(path.read_text(), path.name), settings)


def told_once(case: str) -> list[dict[str, Any]]:
    """The objects without what another one says, or what the plainest service has, too."""
    found: list[dict[str, Any]] = []
    specs: list[Any] = []
    known = () if case == PLAINEST else plain_objects_named(case)
    for one in copy.deepcopy(objects(case)):
        if one in known:
            continue
        if one["kind"] == "ControllerRevision":
            one["data"]["template"] = "that of its pods"
        if one["kind"] == "Deployment":
            one["metadata"]["annotations"]["steelyard.dev/template"] = "that below"
        if one["kind"] == "Pod" and one["spec"] in specs:
            one["spec"] = "that of a pod above"
        specs.append(one.get("spec"))
        found.append(one)
    return found


def plain_objects_named(case: str) -> tuple[dict[str, Any], ...]:
    """What the plainest service would have under the name of another."""
    plain, other = (load(CASES[one][0].read_text(), one) for one in (PLAINEST, case))
    return everything(plain.model_copy(update={"metadata": other.metadata}), Settings())


@pytest.mark.parametrize("case", CASES)
def test_objects_are_as_recorded(case: str) -> None:
    """A change of anything that is rendered shows in a golden file."""
    file = GOLDEN / f"{case}.yaml"
    told = told_once(case)
    rendered = yaml.dump_all(
        told, Dumper=PlainDumper, sort_keys=False, width=100, default_flow_style=None
    )
    if os.environ.get("STEELYARD_UPDATE_GOLDEN"):
        file.write_text(rendered)

    assert rendered == file.read_text()


def test_every_golden_file_has_a_case() -> None:
    """A sample that goes takes its golden file along."""
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == CASES.keys()


@pytest.mark.parametrize("case", CASES)
def test_kubernetes_accepts_the_objects(case: str) -> None:
    """Each object is valid in Kubernetes' own schema, with no unknown field."""
    builtin = [one for one in objects(case) if one["kind"] != "HTTPRoute"]

    for one in builtin:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)

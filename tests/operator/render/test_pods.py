"""Pods of workers: what a slot, a role and a revision add, and what a resource may override."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.render.names import endpoint_url, pod_name, slot_of
from steelyard_operator.render.pod import worker_pod
from steelyard_operator.render.secret import token_secret
from steelyard_operator.render.template import worker_template
from steelyard_operator.settings import Settings

SETTINGS = Settings()
ROLE_LABELS = {"steelyard.dev/prefill", "steelyard.dev/decode"}


def engine(template: dict[str, Any]) -> dict[str, Any]:
    """The one container of a template."""
    (found,) = template["spec"]["containers"]
    return found


def variables(container: dict[str, Any]) -> dict[str, Any]:
    """A container's environment."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (Role.PREFILL, {"steelyard.dev/prefill"}),
        (Role.DECODE, {"steelyard.dev/decode"}),
        (Role.BOTH, ROLE_LABELS),
    ],
)
def test_a_role_is_labels_alone(a_service: Any, owner: Any, role: Role, expected: set[str]) -> None:
    """The same template serves any role; the pod says which by its labels."""
    template = worker_template(a_service(), SETTINGS, Role.PREFILL)

    pod = worker_pod(
        owner, template, slot=3, role=role, revision="abc", attempt=2, settings=SETTINGS
    )

    assert pod["metadata"]["labels"].keys() & ROLE_LABELS == expected
    assert pod["metadata"]["labels"]["steelyard.dev/revision"] == "abc"
    assert pod["metadata"]["annotations"]["steelyard.dev/attempt"] == "2"
    assert pod["metadata"]["name"] == "s-3"
    other = worker_template(a_service(), SETTINGS, Role.DECODE)
    decode = worker_pod(
        owner, other, slot=0, role=Role.DECODE, revision="abc", attempt=0, settings=SETTINGS
    )
    assert pod["spec"] == decode["spec"]


def test_a_pod_mounts_the_token_of_its_own_resource(a_service: Any, owner: Any) -> None:
    """One that is made again at once finds the old Secret still there, under another name."""
    template = worker_template(a_service(), SETTINGS, Role.PREFILL)
    again = replace(owner, uid="99999999-0000")

    pods = [
        worker_pod(
            each, template, slot=0, role=Role.BOTH, revision="a", attempt=0, settings=SETTINGS
        )
        for each in (owner, again)
    ]

    mounted = [
        next(v["secret"]["secretName"] for v in pod["spec"]["volumes"] if v["name"] == "token")
        for pod in pods
    ]
    assert mounted == [token_secret(each, "t")["metadata"]["name"] for each in (owner, again)]
    assert mounted[0] != mounted[1]


def test_a_pod_is_not_tied_to_its_template(a_service: Any, owner: Any) -> None:
    """What is done to one pod's object changes neither the template nor the next pod."""
    template = worker_template(a_service(), SETTINGS, Role.PREFILL)
    first = worker_pod(
        owner, template, slot=0, role=Role.BOTH, revision="a", attempt=0, settings=SETTINGS
    )
    first["spec"]["containers"].clear()

    second = worker_pod(
        owner, template, slot=1, role=Role.BOTH, revision="a", attempt=0, settings=SETTINGS
    )

    assert len(second["spec"]["containers"]) == 1


@pytest.mark.parametrize(
    ("name", "slot"),
    [("s-0", 0), ("s-12", 12), ("s-01", None), ("s-", None), ("s-x", None), ("t-1", None)],
)
def test_a_slot_is_read_from_a_name_of_the_service_alone(name: str, slot: int | None) -> None:
    """A name that the operator would not give is nobody's slot."""
    assert slot_of(name, "s") == slot


def test_a_name_gives_back_its_slot() -> None:
    """Also for a service whose own name ends in a number."""
    assert slot_of(pod_name("s-1", 7), "s-1") == 7
    assert slot_of(pod_name("s-1", 7), "s") is None


def test_overrides_are_added_and_do_not_replace_what_is_the_operators(a_service: Any) -> None:
    """Labels of the operator, and its own variables' places, stay."""
    template = {
        "metadata": {"labels": {"team": "a", "steelyard.dev/service": "other"}},
        "spec": {
            "serviceAccountName": "identity",
            "imagePullSecrets": [{"name": "mine"}],
            "containers": [
                {"name": "engine", "env": [{"name": "HOME", "value": "/x"}, {"name": "B"}]}
            ],
        },
    }
    role = {"podTemplate": template}
    rendered = worker_template(
        a_service(prefill=role, decode=role),
        Settings(image_pull_secrets=("site",)),
        Role.DECODE,
    )

    assert rendered["metadata"]["labels"]["team"] == "a"
    assert rendered["metadata"]["labels"]["steelyard.dev/service"] == "s"
    assert rendered["spec"]["serviceAccountName"] == "identity"
    assert rendered["spec"]["automountServiceAccountToken"] is False
    assert rendered["spec"]["imagePullSecrets"] == [{"name": "site"}, {"name": "mine"}]
    assert variables(engine(rendered)).items() >= {"HOME": "/x", "B": ""}.items()
    assert next(iter(variables(engine(rendered)))) == "POD_IP"


def test_a_constraint_over_the_operators_key_takes_its_place(a_service: Any) -> None:
    """Two constraints over one key would be refused."""
    own = {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    role = {"podTemplate": {"spec": {"topologySpreadConstraints": [own]}}}
    rendered = worker_template(a_service(prefill=role, decode=role), SETTINGS, Role.DECODE)

    (constraint,) = rendered["spec"]["topologySpreadConstraints"]
    assert constraint["whenUnsatisfiable"] == "DoNotSchedule"


@pytest.mark.parametrize("drain", [1, 30, 3600])
@pytest.mark.parametrize("backend", ["Native", "VLLM"])
def test_a_pod_has_time_to_drain(a_service: Any, drain: int, backend: str) -> None:
    """The kubelet waits longer than a worker drains, whatever happens before the drain."""
    service = a_service(rollout={"drainSeconds": drain}, runtime={"backend": backend})
    spec = worker_template(service, SETTINGS, Role.DECODE)["spec"]
    waits = engine({"spec": spec})["lifecycle"]["preStop"].get("sleep", {}).get("seconds", 0)

    assert spec["terminationGracePeriodSeconds"] >= drain + waits + 10


GPU = {"resources": {"limits": {"nvidia.com/gpu": 1, "cpu": 4}}, "tensorParallel": 2}


def test_tensor_parallel_says_how_many_gpus(a_service: Any) -> None:
    """A worker never holds more or fewer accelerators than it is counted for."""
    service = a_service(prefill=GPU, decode=GPU, runtime={"backend": "VLLM"})
    template = worker_template(service, SETTINGS, Role.DECODE)

    assert engine(template)["resources"]["limits"] == {"nvidia.com/gpu": "2", "cpu": "4"}
    assert "--tensor-parallel-size 2" in " ".join(engine(template)["args"])
    assert {"name": "shm", "mountPath": "/dev/shm"} in engine(template)["volumeMounts"]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, None),
        ({"requests": {"cpu": "500m"}}, "1"),
        ({"requests": {"cpu": "2"}}, "2"),
        ({"requests": {"cpu": "1"}, "limits": {"cpu": "2500m"}}, "3"),
        ({"limits": {"cpu": "8", "nvidia.com/gpu": 1}}, None),
    ],
)
def test_an_engine_has_as_many_threads_as_cores(
    a_service: Any, resources: dict[str, Any], expected: str | None
) -> None:
    """On a CPU; more threads than its share of cores would stop each other."""
    role = {"resources": resources}
    template = worker_template(a_service(prefill=role, decode=role), SETTINGS, Role.DECODE)
    arguments = engine(template)["args"]
    given = dict(itertools.pairwise(arguments)).get("--threads")

    assert given == expected


SOURCES = {
    "hf://org/name": "file:///models",
    "hf://org/name@v1": "file:///models",
    "hf://org/name/a.gguf@v1": "file:///models/a.gguf",
    "hf://org/name/a.gguf@refs/pr/1": "file:///models/a.gguf",
    "s3://bucket/folder": "file:///models",
    "s3://bucket/a@b.gguf": "file:///models/a@b.gguf",
    "s3://bucket/folder/a.gguf": "file:///models/a.gguf",
    "pvc://claim/some/path": "file:///models/some/path",
    "oci://registry.example/model:1": "file:///models",
    "file:///data/a.gguf": "file:///data/a.gguf",
    "package://a/b.gguf": "package://a/b.gguf",
}


@pytest.mark.parametrize(("uri", "told"), SOURCES.items(), ids=SOURCES)
def test_an_engine_is_told_where_its_checkpoint_lies(a_service: Any, uri: str, told: str) -> None:
    """Every scheme ends as something that the engine itself can open."""
    template = worker_template(a_service(model={"uri": uri}), SETTINGS, Role.DECODE)

    assert engine(template)["args"][:2] == ["--model", told]


@pytest.mark.parametrize("uri", SOURCES, ids=SOURCES)
def test_an_engine_cannot_write_to_its_checkpoint(a_service: Any, uri: str) -> None:
    """Only the container that fetches may."""
    settings = Settings(model_cache_claim="cache")
    template = worker_template(a_service(model={"uri": uri}), settings, Role.DECODE)
    mounts = engine(template)["volumeMounts"]

    assert [m for m in mounts if m["name"] in ("model", "cache") and not m.get("readOnly")] == []


NAMES = {
    "hf://org/name@v1": "name",
    "oci://registry.example:5000/models/smollm2:1": "smollm2",
    "oci://registry.example/smollm2@sha256:00": "smollm2",
    "s3://bucket/a@b": "a@b",
}


@pytest.mark.parametrize(("uri", "name"), NAMES.items(), ids=NAMES)
def test_a_models_name_has_no_revision(a_service: Any, uri: str, name: str) -> None:
    """Clients need not change with a new tag."""
    assert a_service(model={"uri": uri}).spec.model.name == name


def test_the_url_names_the_port_only_where_it_must(a_service: Any) -> None:
    """As people write addresses."""
    other = a_service(router={"service": {"port": 8080}})

    assert endpoint_url(a_service(), SETTINGS) == "http://s-router.team.svc.cluster.local"
    assert endpoint_url(other, SETTINGS) == "http://s-router.team.svc.cluster.local:8080"

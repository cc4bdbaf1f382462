"""The CRD on a real API server: accepted, with defaults, and refusing bad input with sentences."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

SAMPLES = Path(__file__).parents[2] / "manifests/samples"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferenceservices.steelyard.dev"
SERVICES = "/apis/steelyard.dev/v1alpha1/namespaces/default/inferenceservices"
DRY_RUN = f"{SERVICES}?dryRun=All&fieldValidation=Warn"
DRAFT = {"model": {"uri": "hf://org/draft"}}
GPU = {"limits": {"nvidia.com/gpu": 1}}
ROLE = {
    "resources": GPU | {"requests": {"cpu": "500m", "memory": "2Gi"}},
    "tensorParallel": 2,
    "podTemplate": {
        "metadata": {"annotations": {"a": "b"}},
        "spec": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [{"name": "engine", "env": [{"name": "A", "value": "b"}]}],
        },
    },
    "priorityClassName": "high",
}


def service(spec: dict[str, Any], name: str = "s") -> dict[str, Any]:
    """Return a service with some fields of its spec."""
    return {
        "apiVersion": "steelyard.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": {"model": {"uri": "hf://org/name"}, **copy.deepcopy(spec)},
    }


def alike(field: str) -> str:
    """The sentence about a field in which the roles differ."""
    return f"`{field}` of `prefill` and `decode` must be equal when `rebalancing.flip` is 'Enabled'"


def role(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of both roles, which must be alike."""
    return {"prefill": fields, "decode": fields}


def nested(where: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A value inside of objects of these names."""
    for name in reversed(where):
        value = {name: value}
    return dict(value)


LONG = "x" * 1024
MAPS = (
    ("resources", "requests"),
    ("resources", "limits"),
    ("podTemplate", "metadata", "labels"),
    ("podTemplate", "metadata", "annotations"),
    ("podTemplate", "spec", "nodeSelector"),
)
ALONE = "`replicas` may not be given with `minReplicas`, `maxReplicas` or `initialReplicas`"
START = "`initialReplicas` must be from `minReplicas` to `maxReplicas`"
WHOLE = "`minReplicas` and `maxReplicas` must be given together"
CAPACITY = "`prefill` and `decode` must start with at most `capacity.maxAccelerators` accelerators"
REFUSED = {
    "replicas and minReplicas": ({"prefill": {"replicas": 1, "minReplicas": 1}}, ALONE),
    "replicas and maxReplicas": ({"decode": {"replicas": 1, "maxReplicas": 1}}, ALONE),
    "replicas and initialReplicas": ({"decode": {"replicas": 1, "initialReplicas": 1}}, ALONE),
    "minReplicas only": ({"prefill": {"minReplicas": 1}}, WHOLE),
    "maxReplicas only": ({"prefill": {"maxReplicas": 1}}, WHOLE),
    "empty range": (
        {"prefill": {"minReplicas": 3, "maxReplicas": 2}},
        "`minReplicas` must not exceed `maxReplicas`",
    ),
    "start below": (
        {"prefill": {"minReplicas": 2, "maxReplicas": 3, "initialReplicas": 1}},
        START,
    ),
    "start above": (
        {"prefill": {"minReplicas": 2, "maxReplicas": 3, "initialReplicas": 4}},
        START,
    ),
    "draft without method": (
        {"speculation": {"draft": DRAFT}},
        "`draft` may not be given unless `method` is 'DraftModel'",
    ),
    "method without draft": (
        {"speculation": {"method": "DraftModel"}},
        "`draft` must be given when `method` is 'DraftModel'",
    ),
    "gate without compression": (
        {"compression": {"qualityGate": {}}},
        "`qualityGate` may not be given unless `weights`, `kvCache` or `pruning` changes the model",
    ),
    "empty ratio": (
        {"capacity": {"minPrefillPerDecodePercent": 200, "maxPrefillPerDecodePercent": 100}},
        "`minPrefillPerDecodePercent` must not exceed `maxPrefillPerDecodePercent`",
    ),
    "over the budget": ({"capacity": {"maxAccelerators": 1}}, CAPACITY),
    "ranks over the budget": (
        {
            "prefill": {"replicas": 2, "tensorParallel": 2},
            "decode": {"minReplicas": 1, "maxReplicas": 2, "tensorParallel": 2},
            "capacity": {"maxAccelerators": 5},
        },
        CAPACITY,
    ),
    "rollout that cannot move": (
        {"rollout": {"maxUnavailable": 0, "maxSurge": 0}},
        "`maxUnavailable` and `maxSurge` must not both be 0",
    ),
    "roles with different resources": ({"prefill": {"resources": GPU}}, alike("resources")),
    "roles with different ranks": (
        {"decode": {"tensorParallel": 2}},
        alike("tensorParallel"),
    ),
    "roles with different pods": (
        {"decode": {"podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}}},
        alike("podTemplate"),
    ),
    "roles with different priority": (
        {"decode": {"priorityClassName": "high"}},
        alike("priorityClassName"),
    ),
    "unknown scheme": ({"model": {"uri": "ftp://a/b"}}, "spec.model.uri in body should match"),
    "unknown value": (
        {"runtime": {"backend": "Other"}},
        'Unsupported value: "Other": supported values: "Native", "VLLM"',
    ),
    "negative number": ({"prefill": {"replicas": -1}}, "should be greater than or equal to 0"),
    "more workers than any service has": (
        {"prefill": {"replicas": 2**31 - 1}},
        "spec.prefill.replicas in body should be less than or equal to 4096",
    ),
    "more accelerators than any service has": (
        {"capacity": {"maxAccelerators": 2**31 - 1}},
        "should be less than or equal to 16384",
    ),
    "much text for the engine": (
        {
            "runtime": {
                "env": [{"name": "A", "value": "x" * 32_768}, {"name": "B", "value": "x" * 8000}]
            }
        },
        "`extraArgs` and `env` must have at most 40000 characters together",
    ),
    "much text for the pods": (
        role({"podTemplate": {"metadata": {"annotations": {str(n): LONG for n in range(40)}}}}),
        "`podTemplate` must have at most 40000 characters in labels, annotations, `nodeSelector` "
        "and variables together",
    ),
    **{
        f"a long key in {where[-1]}": (
            role(nested(where, {"k" * 318: "1"})),
            f"`{where[-1]}` must have keys of at most 317 characters",
        )
        for where in MAPS
    },
    "price without quotes": ({"cost": {"acceleratorHourly": 0.1}}, "must be of type string"),
}


@pytest.mark.parametrize(("spec", "sentence"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_refused_with_a_sentence(
    api: Any, spec: dict[str, Any], sentence: str
) -> None:
    """The API server itself says what is allowed; no webhook is needed."""
    reply = api.call("POST", DRY_RUN, service(spec))

    assert reply.status == 422
    assert sentence in reply.body["message"]


def test_every_rule_is_broken_by_a_case(api: Any) -> None:
    """A new rule needs a case above."""
    schema = api.call("GET", CRD).body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    tried = {sentence for _, sentence in REFUSED.values()} | {text for _, text in NAMES}

    assert [rule for rule in messages(schema) if rule not in tried] == []


def messages(schema: dict[str, Any]) -> list[str]:
    """The sentences of all rules below a schema."""
    own = [rule["message"] for rule in schema.get("x-kubernetes-validations", [])]
    inner = [*schema.get("properties", {}).values(), schema.get("items", {})]
    return own + [text for one in inner if one for text in messages(one)]


NAMES = [
    ("n" * 41, "`metadata.name` must be at most 40 characters"),
    (
        "1st",
        "`metadata.name` must be lower-case letters, digits and '-', starting with a letter",
    ),
]


@pytest.mark.parametrize(("name", "sentence"), NAMES)
def test_a_name_that_pods_cannot_carry_is_refused(api: Any, name: str, sentence: str) -> None:
    """The name is a prefix of the pods' names."""
    reply = api.call("POST", DRY_RUN, service({}, name))

    assert reply.status == 422
    assert sentence in reply.body["message"]


ACCEPTED = {
    "longest name": ({}, "n" * 40),
    "no replicas": ({"prefill": {"replicas": 0}}, "s"),
    "a range": ({"prefill": {"minReplicas": 0, "maxReplicas": 2, "initialReplicas": 2}}, "s"),
    "a draft": ({"speculation": {"method": "DraftModel", "draft": DRAFT}}, "s"),
    "a gate": ({"compression": {"weights": "INT8", "qualityGate": {}}}, "s"),
    "just the budget": ({"capacity": {"maxAccelerators": 2}}, "s"),
    "whole numbers as quantities": (
        {"prefill": {"resources": GPU}, "decode": {"resources": GPU}},
        "s",
    ),
    "roles with equal pods": ({"prefill": ROLE, "decode": ROLE}, "s"),
    "different roles that do not flip": (
        {"prefill": {"resources": GPU}, "rebalancing": {"flip": "Disabled"}},
        "s",
    ),
}


@pytest.mark.parametrize(("spec", "name"), ACCEPTED.values(), ids=ACCEPTED)
def test_good_input_is_accepted(api: Any, spec: dict[str, Any], name: str) -> None:
    """No rule refuses what is allowed, and nothing is warned about."""
    reply = api.call("POST", DRY_RUN, service(spec, name))

    assert reply.status == 201, reply.body
    assert reply.warnings == []


def test_defaults_are_in_what_is_read(api: Any) -> None:
    """A stored object shows what applies, also in blocks that the user left out."""
    spec = api.call("POST", DRY_RUN, service({})).body["spec"]

    assert spec["runtime"] == {"backend": "Native"}
    assert spec["prefill"]["tensorParallel"] == 1
    assert spec["speculation"] == {"method": "None", "policy": "Adaptive"}
    assert spec["rebalancing"] == {"mode": "Auto", "flip": "Enabled", "cooldownSeconds": 60}
    assert spec["router"] == {"replicas": 2, "service": {"type": "ClusterIP", "port": 80}}
    assert spec["rollout"]["drainSeconds"] == 30
    assert spec["suspend"] == "Disabled"
    assert "cost" not in spec


def test_an_unknown_field_is_warned_about(api: Any) -> None:
    """A field with a typing error is named, and not stored."""
    reply = api.call("POST", DRY_RUN, service({"prefill": {"replica": 1}}))

    assert reply.status == 201
    assert 'unknown field \\"spec.prefill.replica\\"' in "".join(reply.warnings)
    assert "replica" not in reply.body["spec"]["prefill"]


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_a_sample_is_applied_and_listed(api: Any, sample: Path) -> None:
    """`kubectl apply` takes every sample; `kubectl get sis` has the promised columns."""
    applied = api.kubectl("apply", "--filename", str(sample))
    listed = api.kubectl("get", "sis", "--output", "wide")
    by_category = api.kubectl("get", "steelyard", "--output", "name")

    assert (applied.returncode, applied.stderr) == (0, "")
    titles = ["READY", "PREFILL", "DECODE", "TTFT", "TPOT", "$/MTOK", "URL"]
    assert listed.stdout.split()[1:8] == titles
    assert yaml.safe_load(sample.read_text())["metadata"]["name"] in by_category.stdout


def test_status_is_a_subresource(api: Any) -> None:
    """A write of the resource leaves status alone, a write of status leaves the spec alone."""
    written = service({}, "with-status") | {"status": {"url": "x"}}
    created = api.call("POST", SERVICES, written)
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "Serving",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    changed = created.body | {"status": {"conditions": [condition], "url": "y"}}
    changed["spec"] = changed["spec"] | {"suspend": "Enabled"}

    reply = api.call("PUT", f"{SERVICES}/with-status/status", changed)

    assert "status" not in created.body
    assert reply.body["status"]["url"] == "y"
    assert reply.body["status"]["conditions"] == [
        condition | {"observedGeneration": 0, "message": ""}
    ]
    assert reply.body["spec"]["suspend"] == "Disabled"


def test_a_field_explains_itself(api: Any) -> None:
    """`kubectl explain` shows the models' documentation."""
    shown = api.kubectl("explain", "sis.spec.rebalancing")

    assert "cooldownSeconds is the shortest time between two changes" in shown.stdout

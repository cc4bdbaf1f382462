"""Who may write which InferenceService, as a real API server decides with manifests/admission."""

import copy
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from steelyard_operator.testing.cluster import (
    CORE,
    MERGE,
    SAMPLE,
    SERVICES,
    Cluster,
    eventually,
)

ROOT = Path(__file__).parents[2]
POLICY = ROOT / "manifests/admission/policy.yaml"
KINDS = {
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
RIGHTS = "/apis/rbac.authorization.k8s.io/v1/namespaces"
WRITING = {
    "apiGroups": ["steelyard.dev"],
    "resources": ["inferenceservices", "inferenceservices/status"],
    "verbs": ["create", "get", "patch", "update"],
}
PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["create"]}
Rule = dict[str, Any]


def getting(resource: str, *names: str) -> Rule:
    """Return the right to get some objects of a kind; all of them without names."""
    rule = {"apiGroups": [""], "resources": [resource], "verbs": ["get"]}
    return {**rule, "resourceNames": list(names)} if names else rule


def user(cluster: Cluster, *rights: Rule) -> Cluster:
    """Return the namespace as an account sees it that may write services, and what is given."""
    name = f"user-{secrets.token_hex(4)}"
    meta = {"metadata": {"name": name}}
    cluster.call("POST", CORE, "serviceaccounts", meta)
    cluster.call("POST", RIGHTS, "roles", {**meta, "rules": [WRITING, *rights]})
    group = "rbac.authorization.k8s.io"
    binding = {
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": cluster.namespace}],
    }
    cluster.call("POST", RIGHTS, "rolebindings", {**meta, **binding})
    answer = cluster.call("POST", CORE, f"serviceaccounts/{name}/token", {"spec": {}})
    found = Cluster(replace(cluster.api, token=answer["status"]["token"]), cluster.namespace)
    path = f"{SERVICES}/{cluster.namespace}/inferenceservices/none"
    # Rights take effect a moment after they are written; then there is no such service.
    eventually(lambda: found.api.call("GET", path).status == 404, "the user's rights")
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server said to a write."""

    status: int
    message: str


def write(cluster: Cluster, spec: dict[str, Any], name: str = "") -> Answer:
    """Make a service from the sample, with some fields."""
    body = yaml.safe_load(SAMPLE.read_text())
    body["metadata"] = {
        "name": name or f"s-{secrets.token_hex(4)}",
        "namespace": cluster.namespace,
    }
    body["spec"].update(copy.deepcopy(spec))
    path = f"{SERVICES}/{cluster.namespace}/inferenceservices"
    reply = cluster.api.call("POST", path, body)
    return Answer(reply.status, str(reply.body.get("message", "")))


def change(cluster: Cluster, name: str, merged: dict[str, Any], subresource: str = "") -> Answer:
    """Change a service."""
    path = f"{SERVICES}/{cluster.namespace}/inferenceservices/{name}{subresource}"
    reply = cluster.api.call("PATCH", path, merged, MERGE)
    return Answer(reply.status, str(reply.body.get("message", "")))


@pytest.fixture(scope="module")
def guarded(system: Any) -> Iterator[Any]:
    """An API server that enforces the policy."""
    documents = list(yaml.safe_load_all(POLICY.read_text()))
    for document in documents:
        reply = system.call("POST", f"{ADMISSION}/{KINDS[document['kind']]}", document)
        assert reply.status == 201, reply.body
    yield system
    for document in documents:
        name = document["metadata"]["name"]
        system.call("DELETE", f"{ADMISSION}/{KINDS[document['kind']]}/{name}")


@pytest.fixture
def place(guarded: Any, cluster: Cluster) -> Cluster:
    """A namespace in which the policy has taken effect."""
    nobody = user(cluster)
    eventually(lambda: write(nobody, {}).status == 403, "the policy is enforced")
    return cluster


REFERENCE = {"name": "mine", "key": "k"}
PULLS = [{"name": "mine"}, {"name": "too"}]
SECRETS = getting("secrets", "mine")


def on_decode(**spec: Any) -> dict[str, Any]:
    """Return fields that add to the pods of one role."""
    return {"decode": {"podTemplate": {"spec": spec}}, "rebalancing": {"flip": "Disabled"}}


def on_prefill(**spec: Any) -> dict[str, Any]:
    """The same of the other."""
    return {"prefill": {"podTemplate": {"spec": spec}}, "rebalancing": {"flip": "Disabled"}}


def drafting(model: dict[str, Any]) -> dict[str, Any]:
    """Return fields with a draft model."""
    return {"speculation": {"method": "DraftModel", "draft": {"model": model}}}


HUB = {"uri": "hf://a/b", "credentialsSecretRef": REFERENCE}
CLAIM = {"uri": "pvc://mine/a/b"}
CASES: dict[str, tuple[dict[str, Any], Rule]] = {
    "spec.model.credentialsSecretRef.name": ({"model": HUB}, SECRETS),
    "spec.model.uri": ({"model": CLAIM}, getting("persistentvolumeclaims", "mine")),
    "spec.speculation.draft.model.credentialsSecretRef.name": (drafting(HUB), SECRETS),
    "spec.speculation.draft.model.uri": (
        drafting(CLAIM),
        getting("persistentvolumeclaims", "mine"),
    ),
    "spec.router.apiKeysSecretRef.name": ({"router": {"apiKeysSecretRef": REFERENCE}}, SECRETS),
    "spec.prefill.podTemplate.spec.imagePullSecrets[].name": (
        on_prefill(imagePullSecrets=PULLS),
        getting("secrets", "mine", "too"),
    ),
    "spec.decode.podTemplate.spec.imagePullSecrets[].name": (
        on_decode(imagePullSecrets=[*PULLS, {"name": "third"}]),
        getting("secrets"),
    ),
    "spec.prefill.podTemplate.spec.serviceAccountName": (
        on_prefill(serviceAccountName="mine"),
        getting("serviceaccounts", "mine"),
    ),
    "spec.decode.podTemplate.spec.serviceAccountName": (
        on_decode(serviceAccountName="mine"),
        getting("serviceaccounts", "mine"),
    ),
}


def test_what_a_service_names_its_author_must_be_able_to_get(place: Cluster) -> None:
    """Each reference is refused with its field's name, and admitted with the right to it."""
    stranger = user(place, PODS, getting("secrets", "other"))
    for field, (spec, right) in CASES.items():
        refused = write(stranger, spec)
        assert (refused.status, f"`{field}`" in refused.message) == (403, True), (field, refused)
        assert write(user(place, PODS, right), spec).status == 201, field


def test_some_secrets_are_not_enough_where_many_are_named(place: Cluster) -> None:
    """The author must be able to get all that there are."""
    spec, _ = CASES["spec.decode.podTemplate.spec.imagePullSecrets[].name"]
    some = user(place, PODS, getting("secrets", "mine", "too", "third"))
    half = user(place, PODS, SECRETS)

    assert write(some, spec).status == 403
    assert write(half, on_decode(imagePullSecrets=PULLS)).status == 403


def test_a_service_without_references_needs_the_right_to_make_pods(place: Cluster) -> None:
    """A service runs an image of its author's choice."""
    refused = write(user(place, SECRETS), {})

    assert refused.status == 403
    assert "the right to create pods" in refused.message
    assert write(user(place, PODS), {}).status == 201


def test_a_change_elsewhere_asks_for_no_right(place: Cluster) -> None:
    """Numbers of workers, status and deadlines are free; where content goes is not."""
    owner, stranger = user(place, PODS, SECRETS), user(place)
    assert write(owner, {"model": HUB, "runtime": {"env": []}}, "shared").status == 201

    replicas = {"spec": {"decode": {"replicas": 2}, "rollout": {"drainSeconds": 5}}}
    assert change(stranger, "shared", replicas).status == 200
    assert change(stranger, "shared", {"metadata": {"labels": {"a": "b"}}}).status == 200
    assert change(stranger, "shared", {"status": {"url": "http://x"}}, "/status").status == 200
    elsewhere = [{"name": "HF_ENDPOINT", "value": "http://elsewhere"}]
    for spec in (
        {"runtime": {"env": elsewhere}},
        {"runtime": {"image": "mine"}},
        {"model": {"uri": "hf://other/model"}},
        {"model": {"credentialsSecretRef": {"name": "other"}}},
        on_decode(containers=[{"name": "model", "env": elsewhere}]),
    ):
        assert change(stranger, "shared", {"spec": spec}).status == 403, spec
    assert change(owner, "shared", {"spec": {"runtime": {"env": elsewhere}}}).status == 200


def test_a_controller_with_the_rights_writes_for_all(place: Cluster) -> None:
    """As Argo CD and Flux do: everything at once, under one account."""
    everything = {
        **{"model": HUB, "router": {"apiKeysSecretRef": REFERENCE}},
        **drafting({**CLAIM, "credentialsSecretRef": REFERENCE}),
        "prefill": {"podTemplate": {"spec": {"imagePullSecrets": PULLS}}},
        "decode": {
            "podTemplate": {"spec": {"imagePullSecrets": PULLS, "serviceAccountName": "mine"}}
        },
        "rebalancing": {"flip": "Disabled"},
    }
    kinds = ("secrets", "persistentvolumeclaims", "serviceaccounts")
    controller = user(place, PODS, *(getting(kind) for kind in kinds))

    written = write(controller, everything)

    assert written.status == 201, written


def test_the_throwaway_installation_is_accepted_as_a_whole(guarded: Any) -> None:
    """One command, two namespaces, the policy among the rest; and so is the sample after it."""
    applied = guarded.kubectl("apply", "--kustomize", str(ROOT / "manifests/overlays/kind"))
    assert applied.returncode == 0, applied.stderr

    sample = guarded.kubectl("apply", "--namespace", "steelyard", "--filename", str(SAMPLE))
    assert sample.returncode == 0, sample.stderr
    guarded.kubectl("delete", "--namespace", "steelyard", "--filename", str(SAMPLE))

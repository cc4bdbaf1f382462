"""The operator's rights against what it does: all that it needs, and nothing that it does not use.

It runs under its own account from a namespace of its own, with the Roles of `manifests/base`,
through a service's whole life.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from steelyard_operator.testing.cluster import (
    CORE,
    POLICIES,
    SERVICES,
    Cluster,
    eventually,
    holder,
    operating,
)
from steelyard_operator.testing.life import Life

ROOT = Path(__file__).parents[2]
AT_HOME = ROOT / "manifests/base/operator/rbac.yaml"
SERVED = ROOT / "manifests/base/served/operator.yaml"
ACCOUNT = "steelyard-operator"
RIGHTS = "/apis/rbac.authorization.k8s.io/v1/namespaces"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# Admission plugins of other distributions check it; nobody sends such a request.
CHECKED_BY_ADMISSION = {("update", "steelyard.dev", "inferenceservices/finalizers")}
# Patched, never applied.
NEVER_CREATED = {("steelyard.dev", "inferenceservices/status")}
Right = tuple[str, str, str]


def documents(file: Path) -> list[dict[str, Any]]:
    """Return what the base has in a file."""
    return [each for each in yaml.safe_load_all(file.read_text()) if each]


def granted(file: Path) -> set[Right]:
    """Return verb, group and resource of everything that a file's Roles allow."""
    return {
        (verb, group, resource)
        for document in documents(file)
        for rule in document.get("rules", [])
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def account(cluster: Cluster, home: Cluster) -> str:
    """Make the operator's account at home, with its rights there and here; returns its token."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": home.namespace}}
    assert home.api.call("POST", "/api/v1/namespaces", namespace).status == 201
    body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT}}
    home.call("POST", CORE, "serviceaccounts", body)
    for where, file in ((home, AT_HOME), (cluster, SERVED)):
        for document in documents(file):
            for subject in document.get("subjects", []):
                subject["namespace"] = home.namespace
            where.call("POST", RIGHTS, f"{document['kind'].lower()}s", document)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = home.call("POST", CORE, f"serviceaccounts/{ACCOUNT}/token", request)
    return str(answer["status"]["token"])


def audited(cluster: Cluster, home: Cluster) -> tuple[dict[str, set[Right]], list[str]]:
    """Return what the account has done, by namespace, and what was forbidden to it."""
    user = f"system:serviceaccount:{home.namespace}:{ACCOUNT}"
    done: dict[str, set[Right]] = {}
    forbidden = []
    for line in cluster.api.audit_log.read_text().splitlines():
        event = json.loads(line)
        target = event.get("objectRef")
        if event["user"]["username"] != user or not target:
            continue
        resource = target["resource"]
        if target.get("subresource"):
            resource += f"/{target['subresource']}"
        if event["responseStatus"]["code"] == 403:
            forbidden.append(f"{event['verb']} {resource}")
        right = (event["verb"], target.get("apiGroup", ""), resource)
        done.setdefault(target.get("namespace", ""), set()).add(right)
    return done, forbidden


def test_no_right_has_a_wildcard() -> None:
    """Also none that a future resource would fall under."""
    assert not [right for file in (AT_HOME, SERVED) for right in granted(file) if "*" in right]


def test_the_operator_uses_its_rights_and_no_others(cluster: Cluster, tmp_path: Path) -> None:
    """Made, scaled, rolled out seven times, repaired, deleted: all under its own account."""
    gateway_api(cluster)
    home = Cluster(cluster.api, f"{cluster.namespace}-system")
    api = replace(cluster.api, token=account(cluster, home))
    settings = {
        "STEELYARD_NAMESPACE": cluster.namespace,
        "STEELYARD_OPERATOR_NAMESPACE": home.namespace,
    }
    found = Life(cluster, budget=3)
    try:
        for part in (first_half, second_half):
            with operating(api, tmp_path, **settings):
                eventually(lambda: holder(cluster.api, home.namespace), "it leads")
                part(cluster, found)
    finally:
        found.close()
        # Other tests want a cluster that does not know HTTPRoutes.
        cluster.api.call("DELETE", f"{CRDS}/httproutes.gateway.networking.k8s.io")

    by_namespace, forbidden = audited(cluster, home)
    assert by_namespace.keys() == {cluster.namespace, home.namespace}
    assert by_namespace[home.namespace] == granted(AT_HOME)
    done = by_namespace[cluster.namespace]
    # Who applies what is not there needs this right as well; the log says `patch`.
    done |= {("create", group, resource) for verb, group, resource in done if verb == "patch"}
    done -= {("create", *each) for each in NEVER_CREATED}
    assert forbidden == []
    rights = granted(SERVED)
    assert done - rights == set(), "done without a right of the Role"
    assert rights - done - CHECKED_BY_ADMISSION == set(), "rights that nothing uses"


def first_half(cluster: Cluster, found: Life) -> None:
    """Made with a route, and rolled out until the first templates are forgotten."""
    route = {"gateway": {"parentRef": {"name": "front"}}}
    cluster.apply(capacity={"maxAccelerators": 3}, router=route)
    eventually(lambda: found.steady(1, 1), "the first workers")
    for turn in (*range(7), 5):  # In the end back to a template that is still known.
        env = [{"name": "TURN", "value": str(turn)}]
        cluster.edit({"spec": {"runtime": {"env": env}}})
        eventually(lambda turn=turn: found.runs("TURN", str(turn)) and found.steady(1, 1), "rolled")


def second_half(cluster: Cluster, found: Life) -> None:
    """A new operator reads the template that it makes a worker from; repairs; deletes."""
    cluster.edit({"spec": {"decode": {"replicas": 2}, "router": {"gateway": None}}})
    eventually(lambda: found.steady(1, 2), "a worker more")
    cluster.delete(POLICIES, "networkpolicies/demo-router")
    eventually(lambda: cluster.found(POLICIES, "networkpolicies/demo-router"), "made again")
    cluster.call("DELETE", SERVICES, "inferenceservices/demo", {"propagationPolicy": "Foreground"})
    eventually(lambda: not found.live(), "the end of the workers")
    foreign = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other-0"},
        "spec": {"containers": [{"name": "c", "image": "mine"}]},
    }
    cluster.call("POST", CORE, "pods", foreign)
    cluster.apply("other")
    eventually(lambda: "other-2" in cluster.names(CORE, "pods"), "workers beside the foreign pod")


def gateway_api(cluster: Cluster) -> None:
    """Let the API server know HTTPRoutes, as Gateway API's definition does."""
    group, plural = "gateway.networking.k8s.io", "httproutes"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test's"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": "HTTPRoute", "plural": plural, "singular": "httproute"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }
    assert cluster.api.call("POST", CRDS, body).status in (201, 409)
    path = f"/apis/{group}/v1/namespaces/{cluster.namespace}/{plural}"
    eventually(lambda: cluster.api.call("GET", path).status == 200, "HTTPRoutes are known")

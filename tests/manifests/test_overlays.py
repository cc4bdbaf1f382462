"""What an installation consists of, and that it can do no more than it must."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kubernetes_validate import validate

from steelyard_operator.api.names import OPERATOR

ROOT = Path(__file__).parents[2]
Kustomize = Callable[[str | Path], list[dict[str, Any]]]
Find = Callable[[list[dict[str, Any]], str, str], dict[str, Any]]
BASE = "manifests/base"
OVERLAYS = [f"manifests/overlays/{name}" for name in ("cluster-wide", "gpu", "kind")]


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS])
def test_kubernetes_knows_every_field(kustomize: Kustomize, folder: str) -> None:
    """Strict validation, offline: a misspelt field would be dropped in silence."""
    for document in kustomize(folder):
        validate(document, "1.34", strict=True)


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS])
def test_rights_have_no_wildcard_and_read_no_secret(kustomize: Kustomize, folder: str) -> None:
    """Secrets are created, never read; nothing is granted by a star."""
    roles = [document for document in kustomize(folder) if "rules" in document]
    rules = [rule for role in roles for rule in role["rules"]]

    assert rules
    assert not [rule for rule in rules if "*" in str(rule)]
    assert [r["verbs"] for r in rules if "secrets" in r["resources"]] == [["create"]]
    assert not [rule for rule in rules if rule["apiGroups"] == ["rbac.authorization.k8s.io"]]


def test_the_operator_lives_apart_from_what_it_serves(kustomize: Kustomize) -> None:
    """Where services are it has a Role and runs nothing; nothing of it is the cluster's."""
    documents = kustomize(BASE)

    kinds: dict[str | None, set[str]] = {}
    for document in documents:
        kinds.setdefault(document["metadata"].get("namespace"), set()).add(document["kind"])
    assert kinds.pop(None) == {"Namespace"}
    assert kinds.keys() == {"steelyard-system", "steelyard"}
    assert kinds["steelyard"] == {"Role", "RoleBinding", "ServiceAccount"}
    assert [
        document["metadata"]["name"]
        for document in documents
        if document["kind"] == "ServiceAccount" and document["metadata"]["namespace"] == "steelyard"
    ] == ["steelyard-router"]


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS])
def test_only_the_operators_account_has_its_rights(
    kustomize: Kustomize, find: Find, folder: str
) -> None:
    """The one in its own namespace; the pods' label is the one that NetworkPolicies admit."""
    documents = kustomize(folder)
    bindings = [
        document
        for document in documents
        if "roleRef" in document and document["roleRef"]["name"].startswith("steelyard-operator")
    ]

    assert bindings
    assert {(s["name"], s["namespace"]) for b in bindings for s in b["subjects"]} == {
        ("steelyard-operator", "steelyard-system")
    }
    deployment = find(documents, "Deployment", "steelyard-operator")
    assert deployment["metadata"]["namespace"] == "steelyard-system"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == OPERATOR


def test_the_master_key_is_where_nobody_runs_services(kustomize: Kustomize, find: Find) -> None:
    """Also in the throwaway installation."""
    secret = find(kustomize("manifests/overlays/kind"), "Secret", "steelyard-master-key")

    assert secret["metadata"]["namespace"] == "steelyard-system"


def test_another_namespace_is_served_by_one_more_folder(kustomize: Kustomize, find: Find) -> None:
    """The rights of manifests/base/served under another name, for the same account."""
    folder = ROOT / "build/test-served"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(
        "namespace: team-a\nresources: [../../manifests/base/served]\n"
    )
    binding = find(kustomize(folder), "RoleBinding", "steelyard-operator")

    assert binding["metadata"]["namespace"] == "team-a"
    assert binding["subjects"][0]["namespace"] == "steelyard-system"


def test_cluster_wide_has_the_same_rights_everywhere(kustomize: Kustomize, find: Find) -> None:
    """One list of rights, in a Role or a ClusterRole."""
    narrow, wide = kustomize(BASE), kustomize("manifests/overlays/cluster-wide")

    for name in ("steelyard-operator", "steelyard-router"):
        role = find(wide, "ClusterRole", name)
        assert role["rules"] == find(narrow, "Role", name)["rules"]
        assert "namespace" not in role["metadata"]
    binding = find(wide, "ClusterRoleBinding", "steelyard-operator")
    assert binding["subjects"][0]["namespace"] == "steelyard-system"
    assert not [
        document
        for document in wide
        if document["kind"] == "RoleBinding" and document["roleRef"]["name"] == "steelyard-operator"
    ]
    assert find(wide, "ConfigMap", "steelyard-operator")["data"]["STEELYARD_NAMESPACE"] == ""
    assert find(narrow, "ConfigMap", "steelyard-operator")["data"]["STEELYARD_NAMESPACE"] == (
        "steelyard"
    )


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS])
def test_the_operators_pod_is_restricted(kustomize: Kustomize, find: Find, folder: str) -> None:
    """Pod Security `restricted`, and a root file system that nobody writes to."""
    pod = find(kustomize(folder), "Deployment", "steelyard-operator")["spec"]["template"]["spec"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_an_installation_of_ones_own_names_its_images_and_keeps_its_key(
    kustomize: Kustomize, find: Find
) -> None:
    """A second writing of the overlay changes the images, never the key that workers share."""
    # Below the repository: kustomize follows no link out of it.
    folder = ROOT / "build/test-installation"
    secrets, images = [], []
    for tag in ("1.0", "2.0"):
        command = [ROOT / "manifests/new-installation", folder, "registry.example/team/", tag]
        subprocess.run(command, check=True)
        documents = kustomize(folder)
        secrets.append(find(documents, "Secret", "steelyard-master-key")["data"]["key"])
        deployment = find(documents, "Deployment", "steelyard-operator")
        images.append(deployment["spec"]["template"]["spec"]["containers"][0]["image"])
        config = find(documents, "ConfigMap", "steelyard-operator")["data"]
        assert config["STEELYARD_WORKER_IMAGE"] == f"registry.example/team/steelyard-runtime:{tag}"
        assert config["STEELYARD_ROUTER_IMAGE"] == f"registry.example/team/steelyard-router:{tag}"

    assert secrets[0] == secrets[1]
    assert images == [f"registry.example/team/steelyard-operator:{tag}" for tag in ("1.0", "2.0")]

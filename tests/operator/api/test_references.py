"""Every object that a resource names is found, whatever field it stands in."""

import re

from steelyard_operator.api.meta import Names
from steelyard_operator.api.references import ObjectKind, Reference, references
from steelyard_operator.api.v1alpha1 import InferenceService, InferenceServiceSpec
from steelyard_operator.testing.fields import fields

SUSPICIOUS = re.compile(r"name$|ref$|secret|claim|configmap|serviceaccount|uri$|volume", re.I)
# Names of nothing that has content to give away, or of blocks whose own fields are looked at.
HARMLESS = {
    "spec.model.servedName",
    "spec.model.credentialsSecretRef",
    "spec.speculation.draft.model.credentialsSecretRef",
    "spec.router.apiKeysSecretRef",
    "spec.router.gateway.parentRef",
    "spec.router.gateway.parentRef.name",
    "spec.router.gateway.parentRef.sectionName",
    "spec.runtime.env[].name",
    *(
        f"spec.{role}.{field}"
        for role in ("prefill", "decode")
        for field in (
            "priorityClassName",
            "podTemplate.spec.runtimeClassName",
            "podTemplate.spec.schedulerName",
            "podTemplate.spec.imagePullSecrets",
            "podTemplate.spec.containers[].name",
            "podTemplate.spec.containers[].env[].name",
        )
    ),
}
POD = {
    "spec": {"imagePullSecrets": [{"name": "a"}, {"name": "registry"}], "serviceAccountName": "sa"}
}
EVERYTHING = {
    "model": {"uri": "pvc://claim/x", "credentialsSecretRef": {"name": "hub", "key": "k"}},
    "prefill": {"podTemplate": POD},
    "decode": {"podTemplate": POD},
    "speculation": {
        "method": "DraftModel",
        "draft": {
            "model": {
                "uri": "pvc://draft-claim/y",
                "credentialsSecretRef": {"name": "draft-hub", "key": "k"},
            }
        },
    },
    "router": {"apiKeysSecretRef": {"name": "clients", "key": "k"}},
}


def test_no_field_that_names_an_object_lacks_its_mark() -> None:
    """A new field whose name looks like a reference is marked, or listed here as harmless."""
    found = list(fields(InferenceServiceSpec, "spec"))
    marked = {path for path, field in found if any(isinstance(m, Names) for m in field.metadata)}
    suspicious = {path for path, _ in found if SUSPICIOUS.search(path.rpartition(".")[2])}

    assert suspicious - marked == HARMLESS


def test_the_walk_finds_every_object() -> None:
    """All Secrets, claims and accounts, each with its field."""
    document = {
        "apiVersion": "steelyard.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "s"},
        "spec": EVERYTHING,
    }

    found = list(references(InferenceService.model_validate(document)))

    pods = [
        Reference(f"spec.{role}.podTemplate.spec.{field}", kind, name)
        for role in ("prefill", "decode")
        for field, kind, name in (
            ("serviceAccountName", ObjectKind.SERVICE_ACCOUNT, "sa"),
            ("imagePullSecrets[0].name", ObjectKind.SECRET, "a"),
            ("imagePullSecrets[1].name", ObjectKind.SECRET, "registry"),
        )
    ]
    draft = "spec.speculation.draft.model"
    assert found == [
        Reference("spec.model.uri", ObjectKind.CLAIM, "claim"),
        Reference("spec.model.credentialsSecretRef.name", ObjectKind.SECRET, "hub"),
        *pods,
        Reference(f"{draft}.uri", ObjectKind.CLAIM, "draft-claim"),
        Reference(f"{draft}.credentialsSecretRef.name", ObjectKind.SECRET, "draft-hub"),
        Reference("spec.router.apiKeysSecretRef.name", ObjectKind.SECRET, "clients"),
    ]

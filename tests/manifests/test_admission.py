"""The admission policy looks at everything that a resource can name."""

from pathlib import Path
from typing import Any

import yaml
from kubernetes_validate import validate

from steelyard_operator.api.meta import Names
from steelyard_operator.api.v1alpha1 import InferenceServiceSpec
from steelyard_operator.testing.fields import fields

POLICY = Path(__file__).parents[2] / "manifests/admission/policy.yaml"
MOST_CHECKS = 2
BLOCKS = ("spec.model", "spec.?runtime", "spec.?speculation", "?apiKeysSecretRef", "?podTemplate")


def policy() -> dict[str, Any]:
    """Return the policy's specification."""
    documents = {one["kind"]: one for one in yaml.safe_load_all(POLICY.read_text())}
    found: dict[str, Any] = documents["ValidatingAdmissionPolicy"]["spec"]
    return found


def test_kubernetes_knows_every_field() -> None:
    """Strict validation, offline."""
    for document in yaml.safe_load_all(POLICY.read_text()):
        validate(document, "1.34", strict=True)


def test_every_reference_has_a_rule() -> None:
    """A new field that names an object is told here to be forgotten in the policy."""
    marked = {
        path
        for path, field in fields(InferenceServiceSpec, "spec")
        if any(isinstance(mark, Names) for mark in field.metadata)
    }
    said = " ".join(rule["message"] for rule in policy()["validations"])

    assert {path for path in marked if f"`{path}`" not in said} == set()


def test_no_rule_costs_more_than_it_may() -> None:
    """A check of a right costs 350,000 of 1,000,000; a list asks once for each of its two items."""
    for rule in policy()["validations"]:
        expression = rule["expression"]
        most = max(part.count(".check(") for part in expression.split(" : "))
        listed = MOST_CHECKS if ".all(" in expression else 1
        assert most * listed <= MOST_CHECKS, expression


def test_every_block_with_a_reference_is_looked_at() -> None:
    """A change of what is not compared would be admitted unseen."""
    (condition,) = policy()["matchConditions"]

    assert not [block for block in BLOCKS if block not in condition["expression"]]

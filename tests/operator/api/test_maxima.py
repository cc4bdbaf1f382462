"""The most that a resource may ask for: every number has it, and what is stored beyond is told."""

from collections.abc import Iterator
from typing import Any

import pytest

from steelyard_operator.api.crdgen import crd
from steelyard_operator.api.load import load, read
from steelyard_operator.api.maxima import MOST_REPLICAS
from steelyard_operator.errors import UserError

SPEC = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def numbers(schema: dict[str, Any], path: str) -> Iterator[tuple[str, int]]:
    """All numbers below a schema, with their maxima."""
    if schema.get("type") == "integer":
        yield path, schema["maximum"]
    for name, field in schema.get("properties", {}).items():
        yield from numbers(field, f"{path}.{name}")
    if "items" in schema:
        yield from numbers(schema["items"], f"{path}[]")


def strings(schema: dict[str, Any], path: str) -> Iterator[str]:
    """All strings below a schema that may be of any length, keys of maps included."""
    if schema.get("type") == "string" and "enum" not in schema and "maxLength" not in schema:
        yield path
    rules = [rule["rule"] for rule in schema.get("x-kubernetes-validations", [])]
    if "additionalProperties" in schema:
        if not any("size(key)" in rule for rule in rules):
            yield f"the keys of {path}"
        yield from strings(schema["additionalProperties"], f"{path}.*")
    for name, field in schema.get("properties", {}).items():
        yield from strings(field, f"{path}.{name}")
    if "items" in schema:
        yield from strings(schema["items"], f"{path}[]")


def service(**spec: Any) -> dict[str, Any]:
    """A resource as an API server has it."""
    return {
        "apiVersion": "steelyard.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "s"},
        "spec": {"model": {"uri": "hf://org/name"}, **spec},
    }


def test_no_number_is_as_large_as_its_type_allows() -> None:
    """Each has a maximum of its own, far above real use."""
    assert [path for path, most in numbers(SPEC, "spec") if most > 2**26] == []


def test_every_text_and_every_key_has_a_longest() -> None:
    """Also times, whose fractions of a second have no end."""
    assert list(strings(SPEC, "spec")) == []


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            {"prefill": {"replicas": 1_000_000}},
            f"`spec.prefill.replicas` must be less than or equal to {MOST_REPLICAS}, got 1000000",
        ),
        (
            {"capacity": {"maxAccelerators": 2**31 - 1}},
            "`spec.capacity.maxAccelerators` must be less than or equal to 16384, got 2147483647",
        ),
        (
            {"runtime": {"extraArgs": ["x" * 1024] * 40}},
            "`spec.runtime`: `extraArgs` and `env` must have at most 40000 characters together, "
            "got 40960",
        ),
    ],
)
def test_what_was_stored_before_there_was_a_maximum_is_told(
    spec: dict[str, Any], sentence: str
) -> None:
    """One sentence names the field and the maximum."""
    with pytest.raises(UserError) as caught:
        read(service(**spec))

    assert str(caught.value) == sentence


def test_a_sentence_is_short_whatever_was_given() -> None:
    """It goes into a status."""
    with pytest.raises(UserError) as caught:
        read(service(model={"uri": "x" * 1_000_000}))

    assert len(str(caught.value)) < 500


def test_a_template_has_text_in_bounds() -> None:
    """The pods of both roles are stored as often as there are workers and revisions."""
    text = """
apiVersion: steelyard.dev/v1alpha1
kind: InferenceService
metadata: {name: s}
spec:
  model: {uri: hf://org/name}
  prefill: {podTemplate: {spec: {containers: [{name: engine, env: [{name: A, value: VALUE}]}]}}}
  rebalancing: {flip: Disabled}
"""
    load(text.replace("VALUE", "x" * 32_768), "f")

    with pytest.raises(UserError, match="`podTemplate` must have at most 40000 characters"):
        load(text.replace("VALUE}", f"{'x' * 32_768}}}, {{name: B, value: {'x' * 8000}}}"), "f")

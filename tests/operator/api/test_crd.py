"""The CRD: committed as generated, and inside the conventions of Kubernetes' APIs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from steelyard_operator.api.crdgen import InexpressibleError, crd, crd_yaml, structural
from steelyard_operator.cli import main

COMMITTED = Path(__file__).parents[3] / "crds/steelyard.dev_inferenceservices.yaml"
VERSION = crd()["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]
STRINGS_WITH_FORM = ("enum", "maxLength", "format")
# A time without its unit in the name says nothing.
DURATIONS = re.compile(r"(Duration|Timeout|Period|Interval|Window|Deadline|Cooldown|Delay)$")


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas below one, with their paths."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


OURS = ("spec", "status")
NODES = [node for part in OURS for node in nodes(ROOT["properties"][part], part)]


def faults(path: str, schema: dict[str, Any]) -> Iterator[str]:
    """What the conventions have against one schema."""
    name = path.rsplit(".", 1)[-1]
    kind = schema.get("type")
    if kind in ("number", "boolean", "null") or "nullable" in schema:
        yield f"{kind}: must be an integer, a string or an enum, never null"
    if kind == "array" and not {"x-kubernetes-list-type", "maxItems"} <= schema.keys():
        yield "a list must have a list type and maxItems"
    if kind == "object" and "properties" not in schema and "maxProperties" not in schema:
        yield "a map must have maxProperties"
    if kind == "string" and not any(key in schema for key in STRINGS_WITH_FORM):
        yield "a string must have enum, maxLength or format"
    if kind == "integer" and not {"minimum", "maximum"} <= schema.keys():
        yield "an integer must have both bounds"
    if name == "phase" or DURATIONS.search(name):
        yield "must be a condition, or carry its unit"
    if re.fullmatch(r"[A-Za-z]+", name) and not schema.get("description", "").startswith(name):
        yield "its description must start with its name"
    if not re.fullmatch(r"\*|[a-z][A-Za-z]*(\[\])*", name):
        yield "its name must be camelCase"
    if not all(re.fullmatch(r"[A-Z][A-Za-z0-9]*", value) for value in schema.get("enum", [])):
        yield "its values must be PascalCase"
    for field in schema.get("required", []):
        if "default" in schema["properties"][field]:
            yield f"{field} may not be required and have a default"


@pytest.mark.parametrize(("path", "schema"), NODES, ids=[path for path, _ in NODES])
def test_a_field_keeps_the_conventions(path: str, schema: dict[str, Any]) -> None:
    """Bounds, lists with types, enums in PascalCase, units in names, described by name."""
    assert list(faults(path, schema)) == []


BAD = {
    "float": ("a", {"type": "number", "description": "a"}),
    "truth value": ("a", {"type": "boolean", "description": "a"}),
    "nullable": ("a", {"type": "object", "nullable": True, "properties": {}, "description": "a"}),
    "endless list": ("a", {"type": "array", "x-kubernetes-list-type": "set", "description": "a"}),
    "list of no type": ("a", {"type": "array", "maxItems": 1, "description": "a"}),
    "endless map": ("a", {"type": "object", "description": "a"}),
    "endless string": ("a", {"type": "string", "description": "a"}),
    "endless integer": ("a", {"type": "integer", "minimum": 0, "description": "a"}),
    "no unit": ("drainTimeout", {"type": "string", "format": "x", "description": "drainTimeout"}),
    "phase": ("phase", {"type": "string", "format": "x", "description": "phase"}),
    "undescribed": ("a", {"type": "string", "format": "x", "description": "b"}),
    "snake case": ("a_b", {"type": "string", "format": "x", "description": "a_b"}),
    "lower-case enum": ("a", {"type": "string", "enum": ["up"], "description": "a"}),
    "required default": (
        "a",
        {
            "type": "object",
            "properties": {"b": {"default": 1}},
            "required": ["b"],
            "description": "a",
        },
    ),
}


@pytest.mark.parametrize(("path", "schema"), BAD.values(), ids=BAD)
def test_a_field_against_the_conventions_is_found(path: str, schema: dict[str, Any]) -> None:
    """The check of the conventions can fail, in one way at a time."""
    assert len(list(faults(path, schema))) == 1


def test_the_committed_file_is_what_the_models_say() -> None:
    """A changed model needs `make crds`."""
    assert crd_yaml() == COMMITTED.read_text()


def test_the_command_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """`steelyard crd` prints what can be piped into `kubectl apply`."""
    assert main(["crd"]) == 0

    assert capsys.readouterr().out == COMMITTED.read_text()


def test_every_rule_has_a_sentence() -> None:
    """A refusal names a field and says what must, or may not, be."""
    found = [
        rule["message"]
        for _, schema in nodes(ROOT, "root")
        for rule in schema.get("x-kubernetes-validations", [])
    ]

    assert len(found) > 10
    assert [m for m in found if not re.search(r"^`.*` .*(must|may not) ", m)] == []


class Recursive(BaseModel):
    """A model that holds itself."""

    inner: "Recursive | None" = None


class Several(BaseModel):
    """A field of two types."""

    size: int | str


class Untyped(BaseModel):
    """A field of any type."""

    size: Any


class Tuple(BaseModel):
    """Items of different types."""

    pair: tuple[int, str]


class Sized(BaseModel):
    """A field with a default."""

    size: int = 2


class OtherDefault(BaseModel):
    """A default that is not that of the fields."""

    inner: Sized = Sized(size=1)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Recursive, r"^m\.inner: Recursive contains itself"),
        (Several, r"^m\.size: is of several types"),
        (Untyped, r"^m\.size: has no type"),
        (Tuple, r"^m\.pair: prefixItems cannot be said"),
        (OtherDefault, r"^m\.inner: its default is not that of its fields"),
    ],
)
def test_what_cannot_be_said_is_an_error(model: type[BaseModel], why: str) -> None:
    """A modelling mistake ends the generation and names the field."""
    raw = model.model_json_schema()

    with pytest.raises(InexpressibleError, match=why):
        structural(raw, raw.get("$defs", {}), "m")

"""The CustomResourceDefinition, made from the pydantic models.

What Kubernetes' structural schemas cannot express is an error here, never left out silently.
"""

import json
from typing import Any

import yaml

from steelyard_operator.api.meta import rules
from steelyard_operator.api.names import CATEGORY, GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from steelyard_operator.api.v1alpha1 import InferenceService

Schema = dict[str, Any]

HEADER = "# Made by `make crds` from operator/steelyard_operator/api; do not edit.\n"

# Keywords that structural schemas share with JSON Schema.
KEPT = {
    *("type", "format", "description", "default", "enum", "pattern", "required"),
    *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("minProperties", "maxProperties"),
}
# What every item or every value is.
PLACES = {"items": "[]", "additionalProperties": ".*"}
# Pydantic's words for people, and for fields that are unknown: Kubernetes prunes those.
DROPPED = {"title", "additionalProperties"}

# Name, type, path, priority (1: only with `-o wide`), what it shows.
COLUMNS = (
    ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status", 0, "Whether it serves."),
    ("Prefill", "string", ".status.prefill.summary", 0, "Ready of all prefill workers."),
    ("Decode", "string", ".status.decode.summary", 0, "Ready of all decode workers."),
    ("TTFT", "integer", ".status.objectives.ttftMilliseconds", 0, "Milliseconds, as measured."),
    ("TPOT", "integer", ".status.objectives.tpotMilliseconds", 0, "Milliseconds, as measured."),
    ("$/Mtok", "string", ".status.cost.perMillionTokens", 0, "Cost of a million tokens."),
    ("URL", "string", ".status.url", 0, "The endpoint inside the cluster."),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", 1, "Why it is (not)."),
    ("Model", "string", ".spec.model.uri", 1, "The checkpoint."),
    ("Backend", "string", ".spec.runtime.backend", 1, "The engine."),
    ("Plan", "string", ".status.plan.kind", 1, "The change that is under way."),
    ("Age", "date", ".metadata.creationTimestamp", 0, "Time since it was created."),
)


class InexpressibleError(Exception):
    """A model has something that a structural schema cannot say; names the field and why."""


def crd_yaml() -> str:
    """Return the file that `make crds` writes."""
    # Through JSON, so that nothing is shared and YAML needs no anchors.
    document = json.loads(json.dumps(crd()))
    return HEADER + yaml.safe_dump(document, sort_keys=False, width=100, allow_unicode=True)


def crd() -> Schema:
    """Return the CustomResourceDefinition of InferenceService.

    Raises:
        InexpressibleError: a model cannot be said in a structural schema.
    """
    raw = InferenceService.model_json_schema()
    root = structural(raw, raw.get("$defs", {}), KIND)
    # The API server checks what every object has; only the name's rules are ours, at the root.
    root["properties"]["apiVersion"] = root["properties"]["kind"] = {"type": "string"}
    root["properties"]["metadata"] = {"type": "object"}
    root["required"] = ["spec"]
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "priority": wide, "description": text}
            for name, kind, path, wide, text in COLUMNS
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def structural(raw: Schema, definitions: Schema, path: str, inside: tuple[str, ...] = ()) -> Schema:
    """Return what Kubernetes accepts for a JSON Schema of pydantic.

    Args:
        raw: the schema of one value.
        definitions: what its references name.
        path: the field, for messages.
        inside: the references that led here; one that comes back is a recursion.

    Raises:
        InexpressibleError: the schema says what a structural schema cannot.
    """
    if "$ref" in raw:
        name = raw["$ref"].removeprefix("#/$defs/")
        if name in inside:
            raise InexpressibleError(f"{path}: {name} contains itself")
        siblings = {key: value for key, value in raw.items() if key != "$ref"}
        return structural(definitions[name] | siblings, definitions, path, (*inside, name))
    if "anyOf" in raw:
        return structural(_without_null(raw, path), definitions, path, inside)
    schema: Schema = {}
    for key, value in raw.items():
        if key.startswith("x-kubernetes-") or key in KEPT:
            schema[key] = value
        elif key == "properties":
            schema[key] = {
                name: structural(inner, definitions, f"{path}.{name}", inside)
                for name, inner in value.items()
            }
        elif key in PLACES and isinstance(value, dict):
            schema[key] = structural(value, definitions, path + PLACES[key], inside)
        elif key == "propertyNames":
            schema |= _about_keys(value, path)
        elif key == "const":
            schema["enum"] = [value]
        elif key not in DROPPED and key != "$defs":
            raise InexpressibleError(f"{path}: {key} cannot be said in a structural schema")
    if "type" not in schema and "x-kubernetes-int-or-string" not in schema:
        raise InexpressibleError(f"{path}: has no type")
    return _finished(schema, path)


def _without_null(raw: Schema, path: str) -> Schema:
    """An optional field may be left out; null is no value of it."""
    choices = [choice for choice in raw["anyOf"] if choice != {"type": "null"}]
    if len(choices) != 1 or len(choices) == len(raw["anyOf"]):
        raise InexpressibleError(f"{path}: is of several types")
    outer = {key: value for key, value in raw.items() if key != "anyOf"}
    if outer.get("default", 0) is None:
        del outer["default"]
    choice: Schema = choices[0]
    return choice | outer


def _about_keys(raw: Schema, path: str) -> Schema:
    """Return the rule that bounds a map's keys: a structural schema has no word for it."""
    if set(raw) != {"maxLength"}:
        raise InexpressibleError(f"{path}: keys can have nothing but a longest length")
    most, field = raw["maxLength"], path.rpartition(".")[2]
    sentence = f"`{field}` must have keys of at most {most} characters"
    return rules((f"self.all(key, size(key) <= {most})", sentence))


def _finished(schema: Schema, path: str) -> Schema:
    """Tidy texts, name the width of integers, and keep the defaults that say something."""
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    if schema.get("type") == "integer" and "maximum" in schema:
        schema["format"] = "int32" if schema["maximum"] < 2**31 else "int64"
    if schema.get("type") not in ("object", "array") or "default" not in schema:
        return schema
    given = schema.pop("default")
    filled = _of_fields(schema)
    if _said(given) != _said(filled):
        raise InexpressibleError(f"{path}: its default is not that of its fields")
    if filled:
        # In full: the API server checks a default by the rules before it fills in those of fields.
        schema["default"] = filled
    return schema


def _of_fields(schema: Schema) -> Any:
    """The value that an API server makes of an empty object."""
    return {
        name: _of_fields(field) if "properties" in field else field["default"]
        for name, field in schema.get("properties", {}).items()
        if "default" in field
    }


def _said(value: Any) -> Any:
    """A default without what says nothing: nulls, empty lists and empty objects."""
    if not isinstance(value, dict):
        return None if value == [] else value
    inner = {name: _said(field) for name, field in value.items()}
    return {name: field for name, field in inner.items() if field is not None} or None

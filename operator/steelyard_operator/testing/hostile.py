"""Resources made to cost the operator as much as the CRD lets them: walked out of its schema.

Each has one field at an extreme, or all of them; what a schema cannot say (two fields that exclude
each other) is left to the API server, which refuses it.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from steelyard_operator.api import meta
from steelyard_operator.api.crdgen import crd
from steelyard_operator.api.maxima import LONGEST_KEY, MOST_TEXT
from steelyard_operator.api.names import ENGINE_CONTAINER

Schema = dict[str, Any]

# The longest text of each form.
LONGEST: dict[str, Callable[[int], str]] = {
    meta.DECIMAL_PATTERN: lambda most: ("9" * 9 + "." + "9" * 9)[:most],
    meta.QUANTITY_PATTERN: lambda most: "9" * (most - 1) + "E",
    meta.SERVICE_NAME_PATTERN: lambda most: "n" * most,
    meta.VARIABLE_PATTERN: lambda most: "V" * most,
    meta.CURRENCY_PATTERN: lambda most: "XXX",
    meta.MODEL_URI_PATTERN: lambda most: "hf://a/" + "m" * (most - len("hf://a/")),
}
# Of a list or a map in which all is at its longest: more would be refused for the whole.
MOST_ITEMS = 3


def hostile_specs() -> list[dict[str, Any]]:
    """Return specs, each with one field of the schema at an extreme; the last two have many."""
    spec = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found = [_spec(change) for change in _extremes(spec)]
    blocks = ("prefill", "decode", "runtime", "router")
    everything = _spec({name: _full(spec["properties"][name]) for name in blocks})
    for role in (everything["prefill"], everything["decode"]):
        role.pop("replicas")
        role["podTemplate"]["metadata"]["annotations"] = _many_texts(MOST_TEXT - 8192)
        role["tensorParallel"] = 1  # the most that the engine serves
    engine = [{"name": f"V{n}", "value": text} for n, text in _many_texts(MOST_TEXT - 8192).items()]
    everything["runtime"] |= {"env": engine, "backend": "Native"}
    most = {"replicas": 4096, "podTemplate": everything["prefill"]["podTemplate"]}
    return [*found, everything, _spec({"prefill": most, "decode": most})]


def _many_texts(characters: int) -> dict[str, str]:
    return {f"k{number}": "x" * 1000 for number in range(characters // 1024)}


def _spec(change: dict[str, Any]) -> dict[str, Any]:
    """Return a spec that differs from a small one; its roles may differ."""
    small = {
        "model": {"uri": "package://steelyard/none"},
        "prefill": {},
        "decode": {},
        "rebalancing": {"flip": "Disabled"},
        "router": {"replicas": 1},
    }
    found: dict[str, Any] = _merged(small, change)
    for role in (found["prefill"], found["decode"]):
        for container in role.get("podTemplate", {}).get("spec", {}).get("containers", [])[:1]:
            container["name"] = ENGINE_CONTAINER
        if {"minReplicas", "maxReplicas", "initialReplicas"} & role.keys():
            role.update({"minReplicas": 0, "maxReplicas": 4096} | role)
    if "draft" in found.get("speculation", {}):
        found["speculation"]["method"] = "DraftModel"
    return found


def _merged(base: Any, change: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return copy.deepcopy(change)
    return {
        key: _merged(base.get(key), change[key]) if key in change else copy.deepcopy(base[key])
        for key in (*base, *(key for key in change if key not in base))
    }


def _extremes(schema: Schema) -> Iterator[Any]:
    """Yield values in which one leaf is at an extreme, and all that is required is there."""
    kind = schema.get("type", "string")
    if kind == "integer":
        yield schema["minimum"]
        yield schema["maximum"]
    elif kind == "string":
        yield from schema["enum"] if "enum" in schema else [_longest(schema)]
    elif kind == "array":
        yield from ([value] for value in _extremes(schema["items"]))
        few = schema["items"].get("type") == "object"
        yield [_numbered(schema["items"], n) for n in range(3 if few else schema["maxItems"])]
    elif "additionalProperties" in schema:
        value = _longest(schema["additionalProperties"])
        yield {"k" * LONGEST_KEY: value}
        yield {f"example.com/{n}": value for n in range(min(MOST_ITEMS, schema["maxProperties"]))}
    else:
        required = _required(schema)
        for name, field in schema.get("properties", {}).items():
            for value in _extremes(field):
                yield {**required, name: value}


def _required(schema: Schema) -> dict[str, Any]:
    return {name: _least(schema["properties"][name]) for name in schema.get("required", ())}


def _least(schema: Schema) -> Any:
    if schema.get("type") == "integer":
        return schema["minimum"]
    if schema.get("type") == "object":
        return _required(schema)
    if "enum" in schema:
        return schema["enum"][0]
    return LONGEST[schema["pattern"]](20) if "pattern" in schema else "x"


def _longest(schema: Schema) -> str:
    if schema.get("format") == "date-time":
        return "2026-01-01T00:00:00." + "9" * 30 + "Z"
    most = int(schema["maxLength"])
    return LONGEST[schema["pattern"]](most) if "pattern" in schema else "x" * most


def _numbered(schema: Schema, number: int) -> Any:
    """Return an item that differs from the others of its list."""
    if schema.get("type") != "object":
        return f"{number}"
    item = _required(schema)
    first = next(name for name in item or schema["properties"])
    return {**item, first: f"x{number}"}


def _full(schema: Schema) -> Any:
    """Return a value in which everything is at its largest, as far as a whole may be."""
    kind = schema.get("type", "string")
    if kind == "integer":
        return schema["maximum"]
    if kind == "string":
        return schema["enum"][-1] if "enum" in schema else _longest(schema)[:1024]
    if kind == "array":
        return [_full(schema["items"])]
    if "additionalProperties" in schema:
        return {"k" * 63: _longest(schema["additionalProperties"])[:63]}
    return {name: _full(field) for name, field in schema.get("properties", {}).items()}

"""The JSON schema that forces tool calls (`tool_choice`), as the engine's grammar takes it.

Output in this form is read by `parsers/guided.py`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError

# llguidance's options: JSON spaced as in the models' training data, and nowhere else.
_SPACING = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
    }
}


def named_call_grammar(tools: Sequence[Mapping[str, Any]], name: str) -> Grammar:
    """Return the grammar for a call of the named function: its arguments alone.

    Raises:
        RequestError: no tool has this name (400).
    """
    for tool in tools:
        if tool["function"]["name"] == name:
            return Grammar("json_schema", json.dumps(_parameters(tool) | _SPACING), field="tools")
    names = ", ".join(repr(tool["function"]["name"]) for tool in tools) or "none given"
    raise RequestError(
        f"tool_choice: names the function {name!r}; must be one of tools: {names}",
        param="tool_choice",
    )


def required_call_grammar(tools: Sequence[Mapping[str, Any]], *, parallel: bool = True) -> Grammar:
    """Return the grammar for one or more calls: an array of `{"name": …, "arguments": …}`.

    Args:
        tools: in OpenAI's form.
        parallel: whether there may be more than one call.

    Raises:
        RequestError: there are no tools (400).
    """
    if not tools:
        raise RequestError(
            "tool_choice: is 'required' without tools; must be 'none' or 'auto'",
            param="tool_choice",
        )
    schema: dict[str, Any] = {
        **_SPACING,
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": [_call_schema(tool, i) for i, tool in enumerate(tools)]},
        # Every function's schema is whole under a name of its own, so that its references work.
        "$defs": {
            _definition(i): _moved(_parameters(tool), f"#/$defs/{_definition(i)}")
            for i, tool in enumerate(tools)
        },
    }
    if not parallel:
        schema["maxItems"] = 1
    return Grammar("json_schema", json.dumps(schema), field="tools")


def _definition(index: int) -> str:
    return f"arguments{index}"


def _call_schema(tool: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "name": {"const": tool["function"]["name"]},
            "arguments": {"$ref": f"#/$defs/{_definition(index)}"},
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _parameters(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a function's arguments, which are always an object."""
    parameters = tool["function"].get("parameters")
    if not parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    identity = ("$schema", "$id")  # They would move the root that references start from.
    return {"type": "object"} | {k: v for k, v in parameters.items() if k not in identity}


def _moved(schema: Any, root: str) -> Any:
    """Return the schema with its local references pointing below `root`."""
    if isinstance(schema, Mapping):
        return {
            key: root + value[1:]
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, root)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_moved(item, root) for item in schema]
    return schema

"""The grammars of `tool_choice` let through valid calls of the given tools and nothing else."""

import json
from typing import Any

import llguidance
import pytest

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.tokenization.parsers.base import parse_whole
from steelyard_runtime.tokenization.parsers.registry import guided_call_parser
from steelyard_runtime.tokenization.tokenizer import Tokenizer
from steelyard_runtime.tokenization.tool_grammar import named_call_grammar, required_call_grammar


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    function = {"name": name} if parameters is None else {"name": name, "parameters": parameters}
    return {"type": "function", "function": function}


# Both schemas have a definition of the same name, and one refers to itself.
WEATHER = tool(
    "weather",
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/Thing"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"Thing": {"type": "string"}},
    },
)
TREE = tool(
    "tree",
    {
        "properties": {
            "size": {"$ref": "#/$defs/Thing"},
            "children": {"type": "array", "items": {"$ref": "#"}},
        },
        "required": ["size"],
        "additionalProperties": False,
        "$defs": {"Thing": {"type": "integer"}},
    },
)
TOOLS = [WEATHER, TREE, tool("now")]


def accepts(grammar: Grammar, value: object, tokenizer: Tokenizer) -> bool:
    """Tell whether the grammar allows a value's JSON as Python writes it, and it may end there."""
    machine = llguidance.LLTokenizer(
        tokenizer.to_json(), n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos_token_ids[0]
    )
    source = llguidance.LLMatcher.grammar_from_json_schema(
        grammar.text, defaults={"whitespace_flexible": False}
    )
    matcher = llguidance.LLMatcher(machine, source, log_level=0)
    assert matcher.get_error() == ""
    ids = tokenizer.encode(json.dumps(value))
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def call(name: str, arguments: object) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ([call("weather", {"city": "Rome"})], True),
        ([call("now", {})], True),
        ([call("tree", {"size": 1, "children": [{"size": 2}]})], True),
        ([call("now", {}), call("weather", {"city": "Rome"})], True),
        ([], False),
        (call("now", {}), False),
        ([call("other", {})], False),
        ([call("weather", {"city": 5})], False),
        ([call("weather", {})], False),
        ([call("tree", {"size": "1"})], False),
        ([call("tree", {"size": 1, "children": [{"size": "2"}]})], False),
        ([call("now", {"zone": 1})], False),
        ([{"name": "now"}], False),
    ],
)
def test_required(value: object, allowed: bool, byte_tokenizer: Tokenizer) -> None:
    """A call's arguments must match the schema of the function that it names."""
    assert accepts(required_call_grammar(TOOLS), value, byte_tokenizer) is allowed


def test_one_call_where_parallel_calls_are_off(byte_tokenizer: Tokenizer) -> None:
    """`parallel_tool_calls: false` allows exactly one call."""
    grammar = required_call_grammar(TOOLS, parallel=False)
    assert accepts(grammar, [call("now", {})], byte_tokenizer)
    assert not accepts(grammar, [call("now", {})] * 2, byte_tokenizer)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("weather", {"city": "Rome"}, True),
        ("weather", {"city": 5}, False),
        ("tree", {"size": 1, "children": [{"size": 2}]}, True),
        ("tree", [], False),
        ("now", {}, True),
        ("now", {"zone": 1}, False),
    ],
)
def test_named(name: str, value: object, allowed: bool, byte_tokenizer: Tokenizer) -> None:
    """For a named function the text is its arguments."""
    assert accepts(named_call_grammar(TOOLS, name), value, byte_tokenizer) is allowed


def test_what_is_forced_can_be_read() -> None:
    """The parser for forced calls reads the form that the grammar forces."""
    text = json.dumps([call("now", {}), call("weather", {"city": "Rome"})])
    parsed = parse_whole(guided_call_parser(None, str), text)
    assert [(c.id, c.name, json.loads(c.arguments)) for c in parsed.tool_calls] == [
        ("0", "now", {}),
        ("1", "weather", {"city": "Rome"}),
    ]


def test_an_unknown_function_is_refused() -> None:
    """A `tool_choice` that names no tool is an error that lists the tools."""
    with pytest.raises(RequestError, match="must be one of tools: 'weather', 'tree', 'now'") as e:
        named_call_grammar(TOOLS, "rain")
    assert (e.value.status, e.value.param) == (400, "tool_choice")


def test_required_without_tools_is_refused() -> None:
    """There is nothing that could be called."""
    with pytest.raises(RequestError, match="'required' without tools") as raised:
        required_call_grammar([])
    assert (raised.value.status, raised.value.param) == (400, "tool_choice")

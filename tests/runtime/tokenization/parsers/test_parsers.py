"""Parsers of output text give the same answer however the text is cut into pieces."""

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.tokenization.parsers import registry
from steelyard_runtime.tokenization.parsers.base import (
    OutputParser,
    ParsedDelta,
    ParsedText,
    PartsCollector,
    parse_whole,
)

Make = Callable[[], OutputParser]


def call_id(index: int) -> str:
    return f"call_{index}"


def hermes() -> OutputParser:
    return registry.tool_call_parser("hermes", call_id)


def call_list() -> OutputParser:
    return registry.guided_call_parser(None, call_id)


def named() -> OutputParser:
    return registry.guided_call_parser("f", call_id)


def deepseek() -> OutputParser:
    return registry.reasoning_parser("deepseek_r1", "", hermes())


def qwen() -> OutputParser:
    return registry.reasoning_parser("qwen3", "", hermes())


def parse(make: Make, text: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Return (content, reasoning, [(name, arguments)]) of a whole text."""
    parsed = parse_whole(make(), text)
    return parsed.content, parsed.reasoning, [(c.name, c.arguments) for c in parsed.tool_calls]


def parse_pieces(parser: OutputParser, pieces: list[str]) -> ParsedText:
    collector = PartsCollector()
    for piece in pieces:
        collector.add(parser.push(piece))
    collector.add(parser.finish())
    return collector.result()


# Words from which texts are made that look like calls, are calls, or break off.
WORDS = [
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<tool", "<", ">", "{", "}", "[", "]"),
    *('{"name": "f", "arguments": {"a": [1, "}"]}}', '{"arguments": {"b": {}}, "name": "g"}'),
    *('{"name": "f"}', '{"name": "h", "arguments": "{\\"c\\": 1}"}', '"name"', '"arguments"'),
    *(":", ",", '"', "\\", "\\u00e9", " ", "\n", "  ", "word", "é👍", "1", "null", '"f"'),
    *('{"name": "f", "arguments": ', '{"name": ', '{"a": "\\"}'),
]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)


@pytest.mark.parametrize("make", [hermes, call_list, named, deepseek, qwen])
@given(text=texts, data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_cut_gives_the_same_answer(make: Make, text: str, data: st.DataObject) -> None:
    """Streamed in any pieces, the joined parts are those of the whole text."""
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    pieces = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
    whole = parse_whole(make(), text)
    assert parse_pieces(make(), pieces) == whole
    assert parse_pieces(make(), list(text)) == whole


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Hello.", "Hello.", []),
        ("a < b <tool> \n", "a < b <tool> \n", []),
        (CALL, "", [("f", '{"a": 1}')]),
        (f"Let me look.\n\n{CALL}", "Let me look.", [("f", '{"a": 1}')]),
        (f"{CALL}\n{CALL}", "", [("f", '{"a": 1}')] * 2),
        (f"{CALL}\nDone.\n", "Done.\n", [("f", '{"a": 1}')]),
        ('<tool_call>{"name":"f"}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name":"f","arguments":null}</tool_call>', "", [("f", "{}")]),
        ('<tool_call>{"name":"f","arguments":"{\\"a\\":1}"}</tool_call>', "", [("f", '{"a":1}')]),
        ('<tool_call>{"name":"f","parameters":{}}</tool_call>', "", [("f", "{}")]),
        (
            '<tool_call>{"arguments": {"b": "}</tool_call>\\""}, "name": "f"}</tool_call>',
            "",
            [("f", '{"b": "}</tool_call>\\""}')],
        ),
        # The model often ends without the closing tag.
        ('<tool_call>{"name": "f", "arguments": {}}', "", [("f", "{}")]),
        # The token limit cuts a call: what came of its arguments is kept.
        ('<tool_call>{"name": "f", "arguments": {"a": [1, 2', "", [("f", '{"a": [1, 2')]),
    ],
)
def test_hermes(text: str, content: str, calls: list[tuple[str, str]]) -> None:
    """Calls are read from between their tags; white space around them is no content."""
    assert parse(hermes, text) == (content, "", calls)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "x <tool_call> not json </tool_call> y",
        '<tool_call>{"name": 5}</tool_call>',
        '<tool_call>{"name": ""}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>["f"]</tool_call>',
        '<tool_call>{"name": "f',
        "text <tool_ca",
    ],
)
def test_what_is_no_call_stays_content(text: str) -> None:
    """A damaged call is passed on as the model wrote it."""
    assert parse(hermes, text) == (text, "", [])


def test_a_call_after_a_damaged_one_is_read() -> None:
    """An opening tag without a call does not hide the next call."""
    assert parse(hermes, f"<tool_call>{CALL}") == ("<tool_call>", "", [("f", '{"a": 1}')])


def test_arguments_are_streamed_as_they_come() -> None:
    """The first delta of a call has id and name, the later ones the arguments' text."""
    parser = hermes()
    text = '<tool_call>{"name": "f", "arguments": {"city": "Zü'
    deltas = [call for piece in [text, "rich", '"}}'] for call in parser.push(piece).tool_calls]
    assert [(d.index, d.id, d.name, d.arguments) for d in deltas] == [
        (0, "call_0", "f", ""),
        (0, None, None, '{"city": "Zü'),
        (0, None, None, "rich"),
        (0, None, None, '"}'),
    ]


def test_content_is_not_held_back_without_need() -> None:
    """Only what may become a tag, and white space before it, waits."""
    parser = hermes()
    assert [parser.push(piece).content for piece in ["Hello", " world", " <b", "> x "]] == [
        "Hello",
        " world",
        " <b",
        "> x",
    ]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('[{"name": "f", "arguments": {"a": 1}}]', [("f", '{"a": 1}')]),
        ('[{"name":"f","arguments":{}},{"name":"g","arguments":{}}]', [("f", "{}"), ("g", "{}")]),
        ('[{"name": "f", "arguments": {"a": ', [("f", '{"a": ')]),
        ('[{"name": "f", "argu', []),
        ("[", []),
    ],
)
def test_a_forced_call_of_any_function(text: str, calls: list[tuple[str, str]]) -> None:
    """The array that the grammar forces is read as calls, never as content."""
    assert parse(call_list, text) == ("", "", calls)


def test_a_forced_call_of_a_named_function() -> None:
    """The whole text is the arguments of the one call."""
    assert parse(named, '{"a": 1}') == ("", "", [("f", '{"a": 1}')])


@pytest.mark.parametrize(
    ("make", "text", "content", "reasoning"),
    [
        (deepseek, "<think>\nHm.\n</think>\n\nYes.", "Yes.", "Hm."),
        (deepseek, "Hm, so.</think>Yes.", "Yes.", "Hm, so."),
        (deepseek, "Hm, cut off ", "", "Hm, cut off "),
        (qwen, "<think>\n\n</think>\n\nYes.", "Yes.", ""),
        (qwen, "<think>Hm </thi", "", "Hm </thi"),
        (qwen, "Yes. <think>no</think>", "Yes. <think>no</think>", ""),
        (qwen, " \n", " \n", ""),
        (qwen, "<thi", "<thi", ""),
    ],
)
def test_reasoning(make: Make, text: str, content: str, reasoning: str) -> None:
    """Reasoning is split off at the start; models that always reason need no opening tag."""
    assert parse(make, text) == (content, reasoning, [])


def test_reasoning_that_the_prompt_opened() -> None:
    """A template that ends with `<think>` makes the answer start inside the reasoning."""
    parser = registry.reasoning_parser("qwen3", "<|im_start|>assistant\n<think>\n")
    parsed = parse_whole(parser, "Hm.</think>Yes.")
    assert (parsed.reasoning, parsed.content) == ("Hm.", "Yes.")


def test_calls_after_reasoning() -> None:
    """What follows the reasoning goes through the parser of tool calls; calls in it do not."""
    assert parse(qwen, f"<think>{CALL}</think>{CALL}") == ("", CALL, [("f", '{"a": 1}')])


def test_arguments_of_a_complete_call_are_the_models_json() -> None:
    """Nested values, escapes and brackets in strings arrive unchanged."""
    arguments = json.dumps({"a": {"b": ["}", "]", '"', "\\", "é"]}, "c": None, "d": -1.5e3})
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'
    assert parse(hermes, text) == ("", "", [("f", arguments)])


@pytest.mark.parametrize(
    ("tool", "reasoning", "message"),
    [
        ("llama", None, "--tool-call-parser: is 'llama'; must be one of: hermes"),
        (None, "gpt", "--reasoning-parser: is 'gpt'; must be one of: deepseek_r1, qwen3"),
    ],
)
def test_unknown_names_are_refused(tool: str | None, reasoning: str | None, message: str) -> None:
    """An unknown parser is one sentence with the known ones."""
    with pytest.raises(ConfigError) as raised:
        registry.check_parser_names(tool, reasoning)
    assert str(raised.value) == message


def test_an_empty_delta_is_false() -> None:
    """A server can leave out deltas that say nothing."""
    assert not ParsedDelta()
    assert ParsedDelta(content="x")

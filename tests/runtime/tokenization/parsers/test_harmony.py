"""Harmony's messages become reasoning, content and calls, however the text is cut into pieces."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel
from tokenizers.models import WordLevel

from steelyard_runtime.tokenization.parsers.base import ParsedText, PartsCollector, parse_whole
from steelyard_runtime.tokenization.parsers.harmony import TAGS, HarmonyParser
from steelyard_runtime.tokenization.tokenizer import Tokenizer

THINKS = "<|channel|>analysis<|message|>The user asks for the sum.<|end|>"
SAYS = "<|start|>assistant<|channel|>final<|message|>It is 4."
CALLS = (
    "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    '{"a": 1}<|call|>'
)


def call_id(index: int) -> str:
    return f"call_{index}"


def parse(text: str, *, calls: bool = True) -> tuple[str, str, list[tuple[str, str]]]:
    """Return (content, reasoning, [(name, arguments)]) of a whole text."""
    parsed = parse_whole(HarmonyParser(call_id if calls else None), text)
    return parsed.content, parsed.reasoning, [(c.name, c.arguments) for c in parsed.tool_calls]


@pytest.mark.parametrize(
    ("text", "content", "reasoning", "calls"),
    [
        (THINKS + SAYS, "It is 4.", "The user asks for the sum.", []),
        (SAYS.removeprefix("<|start|>assistant"), "It is 4.", "", []),
        (THINKS + CALLS, "", "The user asks for the sum.", [("f", '{"a": 1}')]),
        (CALLS.removesuffix("<|call|>"), "", "", [("f", '{"a": 1}')]),
        # The recipient may come before the channel, as the prompt's header goes on.
        (
            " to=functions.g<|channel|>commentary json<|message|>{}<|call|>" + CALLS,
            *("", ""),
            [("g", "{}"), ("f", '{"a": 1}')],
        ),
        # A call without arguments has an empty object of them.
        ("<|channel|>commentary to=functions.f<|message|><|call|>", "", "", [("f", "{}")]),
        # What is said before a call is for the user.
        (
            "<|channel|>commentary<|message|>Let me look.<|end|>" + CALLS,
            *("Let me look.", ""),
            [("f", '{"a": 1}')],
        ),
        # Tools of its own are part of its thinking; two thoughts are two lines.
        (
            THINKS
            + "<|start|>assistant<|channel|>analysis to=python<|message|>2 + 2<|call|>"
            + SAYS,
            *("It is 4.", "The user asks for the sum.\n2 + 2"),
            [],
        ),
        # The token limit cuts an answer anywhere.
        ("<|channel|>analysis<|message|>The us", "", "The us", []),
        (THINKS + "<|start|>assistant<|chan", "", "The user asks for the sum.", []),
        ('<|channel|>commentary to=functions.f<|message|>{"a', "", "", [("f", '{"a')]),
        # What is no message is content, as it was written.
        ("Hello <b> < <|x|>", "Hello <b> < <|x|>", "", []),
        ("<|chan", "<|chan", "", []),
        ("", "", "", []),
    ],
)
def test_messages_are_told_apart(
    text: str, content: str, reasoning: str, calls: list[tuple[str, str]]
) -> None:
    """By channel and recipient."""
    assert parse(text) == (content, reasoning, calls)


def test_without_functions_there_is_no_call() -> None:
    """What the model says to a function that nobody offered is content."""
    assert parse(CALLS, calls=False) == ('{"a": 1}', "", [])


def test_arguments_are_streamed_as_they_come() -> None:
    """The first delta of a call has id and name, the later ones the arguments' text."""
    parser = HarmonyParser(call_id)
    pieces = [
        "<|channel|>commentary to=functions.f<|message|>",
        '{"city": "Zü',
        'rich"}<|ca',
        "ll|>",
    ]
    deltas = [call for piece in pieces for call in parser.push(piece).tool_calls]

    assert [(d.index, d.id, d.name, d.arguments) for d in deltas] == [
        (0, "call_0", "f", ""),
        (0, None, None, '{"city": "Zü'),
        (0, None, None, 'rich"}'),
    ]


WORDS = [
    *("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>", "<|"),
    *("assistant", "analysis", "final", "commentary", " to=functions.f", " to=python", "json"),
    *("<", "|", ">", "{", "}", " ", "\n", "word", "é👍", "<|start|>assistant<|channel|>final"),
]
texts = st.lists(st.sampled_from(WORDS), max_size=14).map("".join)


@given(text=texts, data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_cut_gives_the_same_answer(text: str, data: st.DataObject) -> None:
    """Streamed in any pieces, the joined parts are those of the whole text."""
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    whole = parse_whole(HarmonyParser(call_id), text)

    for pieces in ([text[a:b] for a, b in pairwise([0, *cuts, len(text)])], list(text)):
        assert joined(pieces) == whole


def joined(pieces: list[str]) -> ParsedText:
    parser, collector = HarmonyParser(call_id), PartsCollector()
    for piece in pieces:
        collector.add(parser.push(piece))
    collector.add(parser.finish())
    return collector.result()


@pytest.mark.parametrize("missing", [None, "<|channel|>"])
def test_a_tokenizer_with_all_tags_speaks_harmony(missing: str | None) -> None:
    """Its tags stay in the text, for the parser; another's special tokens are left out."""
    backend = Backend(WordLevel({"word": 0, "?": 1}, unk_token="?"))
    backend.decoder = ByteLevel()
    tags = sorted(TAGS - {missing})
    backend.add_special_tokens([AddedToken(tag, special=True) for tag in [*tags, "<|x|>"]])
    tokenizer = Tokenizer(backend)
    ids = [backend.token_to_id(text) for text in ("<|message|>", "word", "<|x|>", "<|end|>")]

    assert tokenizer.speaks_harmony == (missing is None)
    assert tokenizer.decode(ids) == ("<|message|>word<|end|>" if missing is None else "word")

"""Grammars over a byte-level vocabulary that the test makes."""

import json
import random
from typing import Any

import pytest
import torch

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured import matchers

CPU = torch.device("cpu")
END = 256


def allowed_text(rig: Any, grammar: Grammar) -> str:
    """Follow the grammar, always taking the allowed token with the highest id but the end."""
    state = rig.state(grammar)
    ids: list[int] = []
    for _ in range(200):
        allowed = state.allowed(CPU).nonzero().flatten().tolist()
        token = max((each for each in allowed if each != END), default=END)
        if token == END:
            break
        state.advance([token])
        ids.append(token)
    return str(rig.tokenizer.decode(ids))


def test_a_schema_forces_its_shape(rig: Any) -> None:
    """Whatever is chosen among the allowed tokens is an instance of the schema."""
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"enum": [7, 42]}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }

    answer = json.loads(allowed_text(rig, Grammar("json_schema", json.dumps(schema))))

    assert answer["ok"] in (True, False) and answer["n"] in (7, 42)


def test_a_regex_forces_its_language(rig: Any) -> None:
    """A pattern allows exactly its strings."""
    assert allowed_text(rig, Grammar("regex", "ab{3}c")) == "abbbc"


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", '{"type": "nonsense"}'),
        Grammar("json_schema", "{"),
        Grammar("lark", "start: ("),
        Grammar("regex", "(" * 1000),
    ],
    ids=["type", "json", "lark", "regex"],
)
def test_a_wrong_grammar_is_a_client_error(rig: Any, grammar: Grammar) -> None:
    """What cannot be compiled is a 400 with one line that says why."""
    with pytest.raises(RequestError) as caught:
        rig.state(grammar)

    assert caught.value.status == 400
    assert "\n" not in caught.value.message


def test_an_error_names_the_field_that_holds_the_grammar(rig: Any) -> None:
    """A tool's schema is refused as a tool's schema."""
    with pytest.raises(RequestError, match="`tools`") as caught:
        rig.state(Grammar("json_schema", '{"type": "nonsense"}', field="tools"))

    assert caught.value.param == "tools"


def test_a_replayed_state_equals_the_original(rig: Any) -> None:
    """A fresh matcher that consumed the output so far allows the same tokens."""
    grammar = Grammar("json_object")
    original = rig.state(grammar)
    ids = rig.tokenizer.encode('{"a":').ids
    for token in ids:
        original.allowed(CPU)
        original.advance([token])
    replayed = rig.state(grammar, ids)

    assert torch.equal(original.allowed(CPU), replayed.allowed(CPU))


def test_a_token_outside_the_grammar_is_refused(rig: Any) -> None:
    """Resuming with text that the grammar forbids is a client error."""
    with pytest.raises(RequestError, match="left the grammar"):
        rig.state(Grammar("json_object"), rig.tokenizer.encode("no").ids)


def test_output_outside_the_grammar_is_that_sequence_s_error(rig: Any) -> None:
    """A token that the mask forbids is found when the next mask is asked for."""
    state = rig.state(Grammar("json_object"))

    state.advance(rig.tokenizer.encode("n").ids)

    with pytest.raises(RequestError, match="left the grammar"):
        state.allowed(CPU)


def test_after_the_end_only_the_end_may_follow(rig: Any) -> None:
    """A complete object allows the end alone, and consuming it is no error."""
    state = rig.state(
        Grammar("json_schema", '{"const": {"a": 1}}'), rig.tokenizer.encode('{"a": 1}').ids
    )

    assert state.allowed(CPU).nonzero().flatten().tolist() == [END]
    state.advance([END])
    state.allowed(CPU)


def test_copies_of_one_grammar_do_not_move_each_other(rig: Any) -> None:
    """Two sequences of one compiled grammar each have a state of their own."""
    grammar = Grammar("regex", "(a|b)c")
    first, second = rig.state(grammar), rig.state(grammar)
    before = second.allowed(CPU)

    first.advance(rig.tokenizer.encode("a").ids)

    assert not torch.equal(first.allowed(CPU), before)
    assert torch.equal(second.allowed(CPU), before)


def test_a_copy_that_uses_the_shared_states_up_harms_no_other(
    make_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with a 400; the others go on with states of their own, and so does a new request."""
    few = matchers.llguidance.LLParserLimits(max_lexer_states=300, verbose_errors=False)
    monkeypatch.setattr(matchers, "parser_limits", lambda: few)
    rig = make_rig()
    grammar = Grammar("regex", "([a-z]*a[a-z]{14}b[a-z]*|[a-z]*c[a-z]{13}d[a-z]*)*e")
    greedy, other = rig.state(grammar), rig.state(grammar)
    letters = random.Random(1)

    with pytest.raises(RequestError, match="too many states"):
        while True:
            greedy.advance(rig.tokenizer.encode(letters.choice("abcd")).ids)
            greedy.allowed(CPU)
    other.advance(rig.tokenizer.encode("a").ids)

    assert other.allowed(CPU).any()
    assert rig.state(grammar).allowed(CPU).any()

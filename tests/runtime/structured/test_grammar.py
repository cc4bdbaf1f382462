"""Grammars over a byte-level vocabulary that the test makes."""

import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured.grammar import GrammarCompiler, GrammarVocabulary


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """256 byte tokens and an end of sequence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<end>", special=True)])
    return made


@pytest.fixture
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    """A compiler over that vocabulary, padded as models pad theirs."""
    return GrammarCompiler(lambda: GrammarVocabulary(tokenizer.to_str(), 260, (256,)))


def allowed_text(compiler: GrammarCompiler, tokenizer: Tokenizer, grammar: Grammar) -> str:
    """Follow the grammar, always taking the allowed token with the highest id but the end."""
    state = compiler.compile(grammar)
    ids: list[int] = []
    for _ in range(200):
        allowed = state.allowed(torch.device("cpu")).nonzero().flatten().tolist()
        token = max((each for each in allowed if each != 256), default=256)
        if token == 256 or state.finished:
            break
        state.advance([token])
        ids.append(token)
    return str(tokenizer.decode(ids))


def test_a_schema_forces_its_shape(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    """Whatever is chosen among the allowed tokens is an instance of the schema."""
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"enum": [7, 42]}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }

    answer = json.loads(
        allowed_text(compiler, tokenizer, Grammar("json_schema", json.dumps(schema)))
    )

    assert answer["ok"] in (True, False) and answer["n"] in (7, 42)


def test_a_regex_forces_its_language(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    """A pattern allows exactly its strings."""
    assert allowed_text(compiler, tokenizer, Grammar("regex", "ab{3}c")) == "abbbc"


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("json_schema", '{"type": "nonsense"}'),
        Grammar("json_schema", "{"),
        Grammar("lark", "start: ("),
    ],
    ids=["type", "json", "lark"],
)
def test_a_wrong_grammar_is_a_client_error(compiler: GrammarCompiler, grammar: Grammar) -> None:
    """What cannot be compiled is a 400 with one line that says why."""
    with pytest.raises(RequestError) as caught:
        compiler.compile(grammar)

    assert caught.value.status == 400
    assert "\n" not in caught.value.message


def test_a_replayed_state_equals_the_original(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    """A fresh matcher that consumed the output so far allows the same tokens."""
    grammar = Grammar("json_object")
    original = compiler.compile(grammar)
    ids = tokenizer.encode('{"a":').ids
    for token in ids:
        original.advance([token])
    replayed = compiler.compile(grammar)
    replayed.advance(ids)
    device = torch.device("cpu")

    assert torch.equal(original.allowed(device), replayed.allowed(device))


def test_a_token_outside_the_grammar_is_refused(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    """Resuming with text that the grammar forbids is a client error."""
    state = compiler.compile(Grammar("json_object"))

    with pytest.raises(RequestError):
        state.advance(tokenizer.encode("no").ids)


def test_after_the_end_only_the_end_may_follow(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    """A complete object allows the end alone, and consuming it is no error."""
    state = compiler.compile(Grammar("json_schema", '{"const": {"a": 1}}'))
    state.advance(tokenizer.encode('{"a": 1}').ids)

    assert state.allowed(torch.device("cpu")).nonzero().flatten().tolist() == [256]
    state.advance([256])

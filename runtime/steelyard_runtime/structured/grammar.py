"""Grammars through llguidance: which tokens may come next, in about 0.02 ms a mask.

Compiling happens once a request, on the engine's side, because the matcher's state belongs to the
sequence that it constrains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llguidance
import torch
from torch import Tensor

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError

# A small model that may put white space anywhere can put it there for ever; the separators are
# those that models were trained on (Python's `json.dumps`).
_JSON_DEFAULTS: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


@dataclass(frozen=True, slots=True)
class GrammarVocabulary:
    """What the matcher must know of the tokenizer."""

    tokenizer_json: str
    vocab_size: int
    eos_token_ids: Sequence[int]


class GrammarState:
    """The matcher of one sequence; advances with its output."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    def allowed(self, device: torch.device) -> Tensor:
        """Return (V,) bool: the tokens that may come next."""
        mask = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        allowed = torch.zeros(self._vocab_size, dtype=torch.bool)
        count = min(self._vocab_size, mask.numel())
        allowed[:count] = mask[:count] != 0
        return allowed.to(device)

    def advance(self, token_ids: Sequence[int]) -> None:
        """Consume output tokens; an end-of-sequence token is one of them.

        Raises:
            RequestError: the grammar does not allow them, or grew beyond its limits (400).
        """
        for token_id in token_ids:
            # A matcher that has stopped allows nothing but the end, and does not consume it.
            if self._matcher.is_stopped() or self._matcher.consume_token(token_id):
                continue
            raise RequestError(
                f"the output left the grammar: {_first_line(self._matcher.get_error())}",
                param="response_format",
            )

    @property
    def finished(self) -> bool:
        """Whether nothing but the end of the sequence may follow."""
        return bool(self._matcher.is_stopped())


class GrammarCompiler:
    """Compiles grammars against one vocabulary, which is read at the first use."""

    def __init__(self, vocabulary: Callable[[], GrammarVocabulary]) -> None:
        self._read_vocabulary = vocabulary
        self._vocabulary: GrammarVocabulary | None = None
        self._tokenizer: llguidance.LLTokenizer | None = None

    def compile(self, grammar: Grammar) -> GrammarState:
        """Return a fresh matcher.

        Raises:
            RequestError: the grammar is invalid or not supported (400); the message says why.
        """
        if self._tokenizer is None or self._vocabulary is None:
            self._vocabulary = self._read_vocabulary()
            self._tokenizer = llguidance.LLTokenizer(
                self._vocabulary.tokenizer_json,
                n_vocab=self._vocabulary.vocab_size,
                eos_token=list(self._vocabulary.eos_token_ids),
            )
        matcher = llguidance.LLMatcher(self._tokenizer, _source(grammar), log_level=0)
        if matcher.is_error():
            raise RequestError(
                f"`response_format` cannot be compiled: {_first_line(matcher.get_error())}",
                param="response_format",
            )
        return GrammarState(matcher, self._vocabulary.vocab_size)


def _source(grammar: Grammar) -> str:
    """Return llguidance's form of the grammar."""
    matcher = llguidance.LLMatcher
    try:
        if grammar.kind == "json_object":
            return str(matcher.grammar_from_json_schema('{"type": "object"}', _JSON_DEFAULTS))
        if grammar.kind == "json_schema":
            return str(matcher.grammar_from_json_schema(grammar.text, _JSON_DEFAULTS))
    except ValueError as error:
        raise RequestError(
            f"`response_format` holds no valid JSON schema: {_first_line(str(error))}",
            param="response_format",
        ) from None
    if grammar.kind == "regex":
        return str(matcher.grammar_from_regex(grammar.text))
    return str(matcher.grammar_from_lark(grammar.text))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "unknown reason"

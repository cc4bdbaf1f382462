"""llguidance behind one door: what it makes of a grammar, and its failures as `RequestError`.

No torch here: the trial process imports this. Nothing else than `RequestError` comes out of
`guarded`, whatever the library does: return an error state, raise, or panic (pyo3's
`PanicException`, which is no `Exception`).
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import llguidance
import msgspec

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured.bounds import parser_limits

T = TypeVar("T")

MAX_REASON_LETTERS = 200

# A small model that may put white space anywhere can put it there for ever; the separators are
# those that models were trained on (Python's `json.dumps`).
_JSON_DEFAULTS: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class GrammarVocabulary(msgspec.Struct, frozen=True):
    """What the matcher must know of the tokenizer."""

    tokenizer_json: str
    vocab_size: int
    eos_token_ids: Sequence[int]


def make_tokenizer(vocabulary: GrammarVocabulary) -> llguidance.LLTokenizer:
    """Return llguidance's view of the vocabulary; holds the GIL for 0.3 s with 49,152 tokens."""
    return llguidance.LLTokenizer(
        vocabulary.tokenizer_json,
        n_vocab=vocabulary.vocab_size,
        eos_token=list(vocabulary.eos_token_ids),
    )


def grammar_source(grammar: Grammar) -> str:
    """Return llguidance's form of the grammar.

    Raises:
        RequestError: it is no JSON schema (400).
    """
    matcher = llguidance.LLMatcher
    if grammar.kind == "regex":
        return str(matcher.grammar_from_regex(grammar.text))
    if grammar.kind == "lark":
        return str(matcher.grammar_from_lark(grammar.text))
    text = '{"type": "object"}' if grammar.kind == "json_object" else grammar.text
    try:
        return str(matcher.grammar_from_json_schema(text, _JSON_DEFAULTS))
    except ValueError as error:
        raise RequestError(
            f"`{grammar.field}` holds no valid JSON schema: {one_line(str(error))}",
            param=grammar.field,
        ) from None


def make_matcher(tokenizer: llguidance.LLTokenizer, source: str, field: str) -> Any:
    """Return a fresh `LLMatcher`; others threads run meanwhile.

    Raises:
        RequestError: the grammar is invalid or not supported (400); the message says why.
    """
    matcher = guarded(
        lambda: llguidance.LLMatcher(tokenizer, source, log_level=0, limits=parser_limits()), field
    )
    if matcher.is_error():
        raise RequestError(
            f"`{field}` cannot be compiled: {one_line(matcher.get_error())}", param=field
        )
    return matcher


def next_mask(matcher: Any, field: str) -> bytes:
    """Return one byte a token, 0 where it may not come next; other threads run meanwhile.

    Raises:
        RequestError: the grammar allows nothing, or has passed a limit of the library (400).
    """
    mask = guarded(matcher.compute_logit_bias, field)
    if matcher.is_error():
        raise RequestError(
            f"`{field}` cannot be followed: {one_line(matcher.get_error())}", param=field
        )
    return bytes(mask)


def take_token(matcher: Any, token_id: int, field: str) -> None:
    """Take an output token in; an end-of-sequence token is one.

    Raises:
        RequestError: the grammar does not allow it, or has passed a limit of the library (400).
    """
    # A matcher that has stopped allows nothing but the end, and does not consume it.
    if guarded(lambda: matcher.is_stopped() or matcher.consume_token(token_id), field):
        return
    raise RequestError(
        f"the output left the grammar of `{field}`: {one_line(matcher.get_error())}", param=field
    )


def guarded(call: Callable[[], T], field: str) -> T:
    """Return what `call` returns.

    Raises:
        RequestError: it failed in whatever way (400).
    """
    try:
        return call()
    except (RequestError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise RequestError(
            f"`{field}` holds a grammar that the library fails on: {one_line(str(error))}",
            param=field,
        ) from error


def one_line(text: str) -> str:
    """Return the first line of a reason, cut short."""
    lines = text.strip().splitlines()
    return lines[0][:MAX_REASON_LETTERS].strip() if lines else "unknown reason"

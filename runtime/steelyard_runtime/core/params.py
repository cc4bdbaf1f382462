"""How one sequence is sampled and when it ends; travels from the HTTP process to the engine.

Values are already validated when they get here (`server/` does that); nothing in this module
checks ranges, but for a grammar's length.
"""

from typing import Literal

import msgspec

from steelyard_runtime.errors import RequestError


class Grammar(msgspec.Struct, frozen=True):
    """What the output must match; compiled by `structured/` in the engine process.

    `text` is a JSON schema for `json_schema`, empty for `json_object`, a pattern for `regex`
    and a Lark grammar for `lark`. `field` is the request's field that errors name.
    """

    kind: Literal["json_schema", "json_object", "regex", "lark"]
    text: str = ""
    field: str = "response_format"


SALT_OWNER_DIGITS = 16
"""Leading digits of the router's `cache_salt` that are the same for all requests of one API key."""

MAX_GRAMMAR_BYTES = 512 * 1024
"""The longest grammar: four times what OpenAI allows for all names and values of a schema."""


def check_length(grammar: Grammar) -> None:
    """Refuse a grammar that is too long to be sent around for every choice of a request.

    Raises:
        RequestError: it is (400).
    """
    length = len(grammar.text.encode(errors="surrogatepass"))
    if length > MAX_GRAMMAR_BYTES:
        raise RequestError(
            f"`{grammar.field}` holds a grammar of {length} bytes; at most {MAX_GRAMMAR_BYTES} "
            "are allowed",
            param=grammar.field,
        )


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sampling parameters of one sequence (one choice of a request)."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int = 0  # 64 bits; the HTTP process draws one where the client gave none
    choice_index: int = 0
    logprobs: int | None = None  # None: none; n: the sampled token's and the n most likely
    prompt_logprobs: int | None = None  # the same for prompt positions (`echo` with `logprobs`)
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()  # besides the model's own end-of-sequence ids
    grammar: Grammar | None = None

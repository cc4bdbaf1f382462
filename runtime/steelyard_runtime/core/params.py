"""How one sequence is sampled and when it ends; travels from the HTTP process to the engine.

Values are already validated when they get here (`server/` does that); nothing in this module
checks ranges.
"""

from typing import Literal

import msgspec


class Grammar(msgspec.Struct, frozen=True):
    """What the output must match; compiled by `structured/` in the engine process.

    `text` is a JSON schema for `json_schema`, empty for `json_object`, a pattern for `regex`
    and a Lark grammar for `lark`.
    """

    kind: Literal["json_schema", "json_object", "regex", "lark"]
    text: str = ""


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

"""From the validated fields of a request to `SamplingParams`.

Here are the rules that need the model or several fields at once; single ranges are in
`protocol/`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from steelyard_runtime.core.params import Grammar, SamplingParams
from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.bodies import encode_json
from steelyard_runtime.server.protocol.generation import GenerationRequest, ResponseFormat

Number = TypeVar("Number", int, float)

SEED_MASK = 2**64 - 1
DRAWN_SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """What depends on the served model and the worker's flags."""

    vocab_size: int
    max_num_seqs: int


def sampling_params(
    body: GenerationRequest,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    grammar: Grammar | None,
    limits: TokenLimits,
    draw_seed: Callable[[int], int],
) -> SamplingParams:
    """Return the parameters of choice 0.

    Args:
        body: the request.
        max_tokens: already bounded by the model's length.
        logprobs: how many alternatives, None for no log probabilities at all.
        prompt_logprobs: the same for the prompt.
        grammar: what the output must match.
        limits: of the model and the worker.
        draw_seed: returns so many random bits, for a request without a seed.

    Raises:
        RequestError: fields contradict each other, or name tokens that there are not.
    """
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise RequestError(
            f"`min_tokens` must be at most `max_tokens` ({max_tokens}), got {min_tokens}",
            param="min_tokens",
        )
    stop_token_ids = tuple(dict.fromkeys(body.stop_token_ids or ()))
    for token_id in stop_token_ids:
        _require_token(token_id, "stop_token_ids", limits)
    seed = body.seed if body.seed is not None else draw_seed(DRAWN_SEED_BITS)
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=_or(body.temperature, 1.0),
        top_p=_or(body.top_p, 1.0),
        top_k=max(_or(body.top_k, 0), 0),
        min_p=_or(body.min_p, 0.0),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        logit_bias=_logit_bias(body.logit_bias, limits),
        seed=seed & SEED_MASK,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        ignore_eos=bool(body.ignore_eos),
        stop_token_ids=stop_token_ids,
        grammar=grammar,
    )


def prefill_only(params: SamplingParams) -> SamplingParams:
    """Return the parameters of a prefill for another worker: one token, nothing else."""
    return msgspec.structs.replace(
        params,
        max_tokens=1,
        min_tokens=0,
        logprobs=None,
        prompt_logprobs=None,
        ignore_eos=True,
        stop_token_ids=(),
        grammar=None,
    )


def choices(body: GenerationRequest, limits: TokenLimits) -> int:
    """Return `n`.

    Raises:
        RequestError: it is more than can run at once.
    """
    n = body.n or 1
    if n > limits.max_num_seqs:
        raise RequestError(
            f"`n` must be at most {limits.max_num_seqs} on this worker, got {n}", param="n"
        )
    return n


def stop_texts(body: GenerationRequest) -> tuple[str, ...]:
    """Return the stop strings."""
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)


def response_grammar(given: ResponseFormat | None) -> Grammar | None:
    """Return what `response_format` asks for.

    Raises:
        RequestError: the schema is missing or nested too deeply.
    """
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return Grammar("json_object")
    schema = given.json_schema.schema_ if given.json_schema is not None else None
    if schema is None:
        field = "response_format.json_schema.schema"
        raise RequestError(f"`{field}` is required for type 'json_schema'", param=field)
    return Grammar("json_schema", encode_json(schema, "response_format.json_schema.schema"))


def _logit_bias(given: dict[str, float] | None, limits: TokenLimits) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in (given or {}).items():
        if not (key.isascii() and key.isdecimal() and len(key) < 11):
            raise RequestError(
                f"`logit_bias` must have token ids as keys, got '{key[:40]}'", param="logit_bias"
            )
        _require_token(int(key), "logit_bias", limits)
        bias[int(key)] = value
    return bias


def _require_token(token_id: int, field: str, limits: TokenLimits) -> None:
    if token_id >= limits.vocab_size:
        raise RequestError(
            f"`{field}` must name token ids below {limits.vocab_size}, got {token_id}", param=field
        )


def _or(given: Number | None, default: Number) -> Number:
    return default if given is None else given

"""What the engine keeps for one sequence beside the scheduler's state."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from steelyard_runtime.core.sequence import Sequence
from steelyard_runtime.errors import RequestError
from steelyard_runtime.ipc.messages import AddRequest, TokenLogprobs
from steelyard_runtime.structured.grammar import GrammarState

FLOAT_FIELDS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


def check_numbers(message: AddRequest, vocab_size: int) -> None:
    """Refuse what would harm more than its own sequence, whoever sent it.

    An id beyond the vocabulary reads beyond the embeddings, which on a GPU ends every sequence.

    Raises:
        RequestError: a token id is not in the vocabulary, or a number is not finite (400).
    """
    params = message.params
    ids: dict[str, Iterable[int]] = {
        "prompt": message.prompt_token_ids,
        "steelyard.resume_token_ids": message.resume_token_ids,
        "stop_token_ids": params.stop_token_ids,
        "logit_bias": params.logit_bias,
    }
    for field_name, given in ids.items():
        for wrong in (min(given, default=0), max(given, default=0)):
            if not 0 <= wrong < vocab_size:
                raise RequestError(
                    f"`{field_name}` must hold token ids from 0 to {vocab_size - 1}, got {wrong}",
                    param=field_name,
                )
    for field_name in FLOAT_FIELDS:
        _require_finite(field_name, getattr(params, field_name))
    for value in params.logit_bias.values():
        _require_finite("logit_bias", value)


def _require_finite(field_name: str, value: float) -> None:
    if not math.isfinite(value):
        raise RequestError(f"`{field_name}` must be a finite number, got {value}", param=field_name)


@dataclass(slots=True)
class LiveRequest:
    """One sequence between its `AddRequest` and its last `Output`."""

    message: AddRequest
    sequence: Sequence
    grammar: GrammarState | None = None
    scheduled_at_ns: int = 0
    first_output_sent: bool = False
    is_plain: bool = False
    """Its next token is the likeliest one, whatever came before: nothing of it is asked back."""
    # Log probabilities of the prompt's positions, collected over its prefill chunks.
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)

"""One token for every row of logits.

Rows that are plainly greedy are decided together by one argmax; every other row is sampled by
itself, so that neither its token nor its failure can depend on what else is in the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.errors import ENDS_PROCESS, RequestError
from steelyard_runtime.sampling import filters
from steelyard_runtime.sampling.draws import DrawKind, token_uniforms
from steelyard_runtime.sampling.likeliest import (
    NOT_FINITE,
    NotFiniteLogitsError,
    is_finite,
    likeliest,
)
from steelyard_runtime.sampling.processors import changes, needs_processing

Result = TypeVar("Result")

# Below this temperature the distribution is a point for float32, and dividing would overflow.
GREEDY_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True)
class Row:
    """What sampling one row needs besides its logits."""

    params: SamplingParams
    tokens: Sequence[int]  # prompt and output; not copied, a row is made every step
    num_prompt_tokens: int
    ending_ids: Sequence[int]
    allowed: Tensor | None = None  # (V,) bool, from the grammar

    @property
    def num_output_tokens(self) -> int:
        """How many tokens were generated before this one."""
        return len(self.tokens) - self.num_prompt_tokens


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int | BaseException]:
    """Return one token id a row, or what that row raised.

    Args:
        logits: (R, V) float32.
        rows: R descriptions, in the same order.
    """
    plain = [_attempt(_is_plain, row) for row in rows]
    likeliest_tokens = _likeliest(logits, any_plain=True in plain)
    results: list[int | BaseException] = []
    for index, row in enumerate(rows):
        known, is_plain = likeliest_tokens[index], plain[index]
        if isinstance(is_plain, BaseException):
            results.append(is_plain)
        elif is_plain or isinstance(known, BaseException):
            results.append(known)
        else:
            results.append(_attempt(_sampled, logits[index], row))
    return results


def _attempt(work: Callable[..., Result], *arguments: Any) -> Result | BaseException:
    """Return what `work` returns, or what it raises."""
    try:
        return work(*arguments)
    except ENDS_PROCESS:
        raise
    except BaseException as error:
        return error


def _is_plain(row: Row) -> bool:
    """Whether the row's token is the likeliest one of the raw logits."""
    params = row.params
    return params.temperature < GREEDY_TEMPERATURE and not needs_processing(
        params, row.num_output_tokens
    )


def _likeliest(logits: Tensor, *, any_plain: bool) -> list[int | BaseException]:
    """Return each row's likeliest token, if a row wants it, or why none can be drawn from it."""
    found = _attempt(_marked, logits, any_plain)
    if isinstance(found, BaseException):
        if len(logits) <= 1:
            return [found] * len(logits)
        # By halves to the row that it was.
        halves = logits.chunk(2)
        return [one for half in halves for one in _likeliest(half, any_plain=any_plain)]
    if min(found) > NOT_FINITE:
        return list(found)
    return [NotFiniteLogitsError() if token == NOT_FINITE else token for token in found]


def _marked(logits: Tensor, any_plain: bool) -> list[int]:
    if any_plain:
        tokens: list[int] = likeliest(logits)[1].tolist()
        return tokens
    return [0 if finite else NOT_FINITE for finite in is_finite(logits).tolist()]


def _sampled(logits: Tensor, row: Row) -> int:
    """Return one token id from finite logits (V,).

    Raises:
        RequestError: the request's own fields leave no token with a finite logit.
    """
    params = row.params
    if needs_processing(params, row.num_output_tokens):
        logits = _processed(logits, row)
    if params.temperature < GREEDY_TEMPERATURE:
        return int(torch.argmax(logits))
    ids, probabilities = filters.candidates(logits, params)
    uniforms = token_uniforms(
        torch.arange(len(logits), device=logits.device) if ids is None else ids,
        params.seed,
        params.choice_index,
        row.num_output_tokens,
        DrawKind.TOKEN,
    )
    return filters.draw(ids, probabilities, uniforms)


def _processed(logits: Tensor, row: Row) -> Tensor:
    """Return a changed copy of one row.

    Raises:
        RequestError: a field leaves no token with a finite logit; names the field.
    """
    arguments: dict[str, Any] = {
        "prompt": row.tokens[: row.num_prompt_tokens],
        "output": row.tokens[row.num_prompt_tokens :],
        "ending_ids": row.ending_ids,
        "allowed": row.allowed,
    }
    changed = logits.clone()
    for _ in changes(changed, row.params, **arguments):
        pass
    if is_finite(changed):
        return changed
    # Once more, to see which field it was; rows that are well need no check after each one.
    changed = logits.clone()
    fields = changes(changed, row.params, **arguments)
    field = next(field for field in fields if not is_finite(changed))
    raise RequestError(
        f"`{field}` leaves no token that could come next with a finite logit", param=field
    )

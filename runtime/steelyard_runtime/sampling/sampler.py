"""One token for every row of logits.

Rows that are plainly greedy are decided together by one argmax; every other row is sampled by
itself, so that its token cannot depend on what else is in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.sampling import filters
from steelyard_runtime.sampling.draws import DrawKind, token_uniforms
from steelyard_runtime.sampling.processors import needs_processing, process

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


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Return one token id a row.

    Args:
        logits: (R, V) float32.
        rows: R descriptions, in the same order.
    """
    plain = [
        row.params.temperature < GREEDY_TEMPERATURE
        and not needs_processing(row.params, row.num_output_tokens)
        for row in rows
    ]
    if all(plain):
        return [int(token) for token in logits.argmax(dim=-1).tolist()]
    likeliest = logits.argmax(dim=-1).tolist() if any(plain) else []
    return [
        int(likeliest[index]) if plain[index] else sample_row(logits[index], row)
        for index, row in enumerate(rows)
    ]


def sample_row(logits: Tensor, row: Row) -> int:
    """Return one token id from (V,) logits."""
    params = row.params
    if needs_processing(params, row.num_output_tokens):
        logits = process(
            logits,
            params,
            prompt=row.tokens[: row.num_prompt_tokens],
            output=row.tokens[row.num_prompt_tokens :],
            ending_ids=row.ending_ids,
            allowed=row.allowed,
        )
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

"""Changes to one row of logits before sampling: masks, biases and penalties.

The order is vLLM's: grammar mask, minimum tokens, bias, then penalties.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from steelyard_runtime.core.params import SamplingParams

FORBIDDEN = float("-inf")
LARGEST = torch.finfo(torch.float32).max


def needs_processing(params: SamplingParams, num_output_tokens: int) -> bool:
    """Whether `changes` would change a row at this point of the output."""
    return bool(
        params.logit_bias
        or params.grammar is not None
        or num_output_tokens < params.min_tokens
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
        or params.repetition_penalty != 1.0
    )


def changes(
    row: Tensor,
    params: SamplingParams,
    *,
    prompt: Sequence[int],
    output: Sequence[int],
    ending_ids: Sequence[int],
    allowed: Tensor | None,
) -> Iterator[str]:
    """Change one row in place; yields the name of each request field that has changed it.

    Finite logits stay finite or become `FORBIDDEN`, whatever a penalty multiplies them with.

    Args:
        row: (V,) float32.
        params: the sequence's parameters.
        prompt: the prompt's token ids; only the repetition penalty looks at them.
        output: the token ids generated so far.
        ending_ids: ids that would end the sequence; forbidden before `min_tokens`.
        allowed: (V,) bool from the grammar, or None.
    """
    if allowed is not None:
        row.masked_fill_(~allowed, FORBIDDEN)
        yield "response_format"
    if len(output) < params.min_tokens and ending_ids:
        held_back = row.clone()
        held_back[list(ending_ids)] = FORBIDDEN
        # A grammar that allows nothing but the end wins over the minimum.
        if bool((held_back > FORBIDDEN).any()):
            row.copy_(held_back)
        yield "min_tokens"
    if params.logit_bias:
        bias_ids = torch.tensor(list(params.logit_bias), device=row.device)
        row[bias_ids] += torch.tensor(list(params.logit_bias.values()), device=row.device)
        yield "logit_bias"
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt, *output}), device=row.device)
        if seen.numel():
            values = row[seen]
            factor = params.repetition_penalty
            changed = torch.where(values > 0, values / factor, values * factor)
            # A number, however far off, for what was a number: infinity would become NaN later.
            bounded = changed.clamp(-LARGEST, LARGEST)
            row[seen] = torch.where(values > FORBIDDEN, bounded, values)
        yield "repetition_penalty"
    if output and (params.presence_penalty != 0.0 or params.frequency_penalty != 0.0):
        counts = Counter(output)
        ids = torch.tensor(list(counts), device=row.device)
        times = torch.tensor(list(counts.values()), dtype=row.dtype, device=row.device)
        row[ids] -= params.presence_penalty + params.frequency_penalty * times
        yield "presence_penalty" if params.presence_penalty else "frequency_penalty"

"""Changes to one row of logits before sampling: masks, biases and penalties.

The order is vLLM's: grammar mask, minimum tokens, bias, then penalties.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from steelyard_runtime.core.params import SamplingParams

FORBIDDEN = float("-inf")


def needs_processing(params: SamplingParams, num_output_tokens: int) -> bool:
    """Whether `process` would change a row at this point of the output."""
    return bool(
        params.logit_bias
        or params.grammar is not None
        or num_output_tokens < params.min_tokens
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
        or params.repetition_penalty != 1.0
    )


def process(
    logits: Tensor,
    params: SamplingParams,
    *,
    prompt: Sequence[int],
    output: Sequence[int],
    ending_ids: Sequence[int],
    allowed: Tensor | None,
) -> Tensor:
    """Return a changed copy of one row.

    Args:
        logits: (V,) float32.
        params: the sequence's parameters.
        prompt: the prompt's token ids; only the repetition penalty looks at them.
        output: the token ids generated so far.
        ending_ids: ids that would end the sequence; forbidden before `min_tokens`.
        allowed: (V,) bool from the grammar, or None.
    """
    row = logits.clone()
    if allowed is not None:
        row.masked_fill_(~allowed, FORBIDDEN)
    if len(output) < params.min_tokens and ending_ids:
        held_back = row.clone()
        held_back[list(ending_ids)] = FORBIDDEN
        # A grammar that allows nothing but the end wins over the minimum.
        if bool((held_back > FORBIDDEN).any()):
            row = held_back
    if params.logit_bias:
        bias_ids = torch.tensor(list(params.logit_bias), device=row.device)
        row[bias_ids] += torch.tensor(list(params.logit_bias.values()), device=row.device)
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted({*prompt, *output}), device=row.device)
        if seen.numel():
            values = row[seen]
            factor = params.repetition_penalty
            row[seen] = torch.where(values > 0, values / factor, values * factor)
    if output and (params.presence_penalty != 0.0 or params.frequency_penalty != 0.0):
        counts = Counter(output)
        ids = torch.tensor(list(counts), device=row.device)
        times = torch.tensor(list(counts.values()), dtype=row.dtype, device=row.device)
        row[ids] -= params.presence_penalty + params.frequency_penalty * times
    return row

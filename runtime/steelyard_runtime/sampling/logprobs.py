"""Log probabilities as clients see them: of the model's raw logits, before any processing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from steelyard_runtime.ipc.messages import TokenLogprobs

# Positions at once: 64 rows of 49,152 logits are 12 MiB, which a long prompt does not multiply. One
# at a time, the 3,000 positions of a prompt with 20 alternatives took 40 s on two cores.
ROWS_AT_ONCE = 64


def token_logprobs(logits: Tensor, token_ids: Sequence[int], top_count: int) -> list[TokenLogprobs]:
    """Describe P positions.

    Args:
        logits: (P, V) float32, as the model made them.
        token_ids: the P tokens that stand at these positions.
        top_count: how many of the most likely tokens to list beside each.
    """
    described: list[TokenLogprobs] = []
    for start in range(0, len(token_ids), ROWS_AT_ONCE):
        logprobs = torch.log_softmax(logits[start : start + ROWS_AT_ONCE], dim=-1)
        ids = list(token_ids[start : start + ROWS_AT_ONCE])
        own = logprobs.gather(-1, torch.tensor(ids, device=logits.device).unsqueeze(-1))
        top = torch.topk(logprobs, min(top_count, logprobs.shape[-1]), dim=-1)
        rows = zip(
            ids, own.squeeze(-1).tolist(), top.indices.tolist(), top.values.tolist(), strict=True
        )
        described += [
            TokenLogprobs(token_id, value, list(zip(top_ids, top_values, strict=True)))
            for token_id, value, top_ids, top_values in rows
        ]
    return described

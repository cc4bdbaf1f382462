"""Log probabilities as clients see them: of the model's raw logits, before any processing."""

import torch
from torch import Tensor

from steelyard_runtime.ipc.messages import TokenLogprobs


def token_logprobs(logits: Tensor, token_id: int, top_count: int) -> TokenLogprobs:
    """Describe one position.

    Args:
        logits: (V,) float32, as the model made them.
        token_id: the token that stands at this position.
        top_count: how many of the most likely tokens to list beside it.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    own = float(logprobs[token_id])
    rank = int((logits > logits[token_id]).sum()) + 1
    top: list[tuple[int, float]] = []
    if top_count > 0:
        values, ids = torch.topk(logprobs, top_count)
        top = list(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token_id, own, rank, top)

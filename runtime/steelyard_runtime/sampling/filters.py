"""Which tokens may be drawn: temperature, min-p, top-k and top-p of one row.

Applied in vLLM's order. A filtered row is a list of candidates in the order of their ids, so that
a draw depends on probabilities only, never on how a sort broke a tie between equal ones.
"""

import torch
from torch import Tensor

from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.sampling.processors import LARGEST


def candidates(logits: Tensor, params: SamplingParams) -> tuple[Tensor | None, Tensor]:
    """Return the ids that may be drawn and their probabilities, not normalised.

    Args:
        logits: (V,) float32, processed; minus infinity where forbidden.
        params: `temperature` must be above 0.

    Returns:
        ids (C,) int64 in ascending order, or None for all V; probabilities (C,) or (V,) float32.
    """
    # Infinity minus infinity is not a number: a low temperature may not make one.
    scaled = (logits / params.temperature).clamp_(max=LARGEST)
    probabilities = torch.softmax(scaled, dim=-1)
    ids: Tensor | None = None
    if params.min_p > 0.0:
        keep = probabilities >= min(params.min_p, 1.0) * probabilities.max()
        ids, probabilities = _select(ids, probabilities, keep.nonzero().flatten())
    if 0 < params.top_k < probabilities.shape[0]:
        top = torch.topk(probabilities, params.top_k).indices
        ids, probabilities = _select(ids, probabilities, top.sort().values)
    if params.top_p < 1.0:
        ids, probabilities = _select(
            ids, probabilities, _nucleus(probabilities, max(params.top_p, 0.0))
        )
    return ids, probabilities


def _select(ids: Tensor | None, probabilities: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    return keep if ids is None else ids[keep], probabilities[keep]


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Return the indices, ascending, of the fewest tokens whose mass reaches `top_p`.

    Tokens below (1 - top_p) * mass / count together weigh less than what the nucleus leaves out,
    so none of them is in it. Only the rest is sorted: a few thousand instead of a vocabulary.
    """
    mass = float(probabilities.sum())
    floor = (1.0 - top_p) * mass / probabilities.shape[0]
    likely = (probabilities >= floor).nonzero().flatten()
    ordered, order = torch.sort(probabilities[likely], descending=True, stable=True)
    before = torch.cumsum(ordered.double(), dim=0) - ordered.double()
    kept = max(int((before < top_p * mass).sum()), 1)
    return likely[order[:kept]].sort().values


def draw(ids: Tensor | None, probabilities: Tensor, uniforms: Tensor) -> int:
    """Return the id that wins a race: token i arrives after an exponential time of rate p(i).

    The first one is distributed as the probabilities are (Gumbel-max in other words), and it
    changes only where two tokens arrive together. The inverse of a cumulative sum would change
    with the last bits of any logit: its tail is cut into tens of thousands of pieces that are
    smaller than the rounding, and another batch or a split prefill rounds otherwise.

    Args:
        ids: (C,) of the candidates; None: the indices.
        probabilities: (C,), not normalised.
        uniforms: (C,) float64 in (0, 1), one for each token.
    """
    winner = int(torch.argmax(probabilities.double() / -torch.log(uniforms)))
    return winner if ids is None else int(ids[winner])

"""From a step's logits to one token for each sequence that reached its end.

Also collects the log probabilities of prompt positions while their chunks pass by.
"""

from collections.abc import Mapping

from torch import Tensor

from steelyard_runtime.core.batch import Scheduled, StepPlan
from steelyard_runtime.core.sequence import Sequence
from steelyard_runtime.engine.request import LiveRequest
from steelyard_runtime.sampling.logprobs import token_logprobs
from steelyard_runtime.sampling.sampler import Row, sample


def sample_step(
    plan: StepPlan,
    logits: Tensor,
    live: Mapping[str, LiveRequest],
    eos_token_ids: tuple[int, ...],
    started_at_ns: int,
) -> dict[str, tuple[int, Tensor | None]]:
    """Return (token id, its row of raw logits (V,) where log probabilities are wanted) by request.

    Args:
        plan: what went through the model.
        logits: (R, V) float32, rows in the plan's order.
        live: the engine's requests; their grammars advance here.
        eos_token_ids: the model's ends of sequence.
        started_at_ns: when the step began; noted at a request's first one.
    """
    rows: list[Row] = []
    indices: list[int] = []
    sequences: list[Sequence] = []
    row_start = 0
    for item in plan.scheduled:
        count = len(item.logit_positions)
        request = live[item.sequence.request_id]
        request.scheduled_at_ns = request.scheduled_at_ns or started_at_ns
        if item.sequence.params.prompt_logprobs is not None:
            _collect_prompt_logprobs(request, item, logits[row_start : row_start + count])
        row_start += count
        if item.samples:
            sequences.append(item.sequence)
            indices.append(row_start - 1)
            rows.append(_row(request, logits, eos_token_ids))
    if not rows:
        return {}
    chosen = logits if len(indices) == logits.shape[0] else logits[indices]
    result: dict[str, tuple[int, Tensor | None]] = {}
    for position, token in enumerate(sample(chosen, rows)):
        sequence = sequences[position]
        grammar = live[sequence.request_id].grammar
        if grammar is not None:
            grammar.advance([token])
        # A view of a tensor for each of hundreds of sequences would be a third of this step's time.
        raw = None if sequence.params.logprobs is None else chosen[position]
        result[sequence.request_id] = (token, raw)
    return result


def _row(request: LiveRequest, logits: Tensor, eos_token_ids: tuple[int, ...]) -> Row:
    sequence = request.sequence
    return Row(
        params=sequence.params,
        tokens=sequence.tokens,
        num_prompt_tokens=sequence.num_prompt_tokens,
        ending_ids=(*eos_token_ids, *sequence.params.stop_token_ids),
        allowed=None if request.grammar is None else request.grammar.allowed(logits.device),
    )


def _collect_prompt_logprobs(request: LiveRequest, item: Scheduled, rows: Tensor) -> None:
    sequence = item.sequence
    count = sequence.params.prompt_logprobs or 0
    collected = request.prompt_logprobs
    if not collected:
        collected.append(None)  # Nothing predicts the first token.
    for position, row in zip(item.logit_positions, rows, strict=True):
        following = position + 1
        if following == len(collected) and following < sequence.num_prompt_tokens:
            collected.append(token_logprobs(row, sequence.tokens[following], count))

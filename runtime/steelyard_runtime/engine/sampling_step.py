"""From a step's logits to one token for each sequence that reached its end.

Also collects the log probabilities of prompt positions while their chunks pass by. What one
sequence raises is that sequence's failure; the others get the tokens that they would have got.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from steelyard_runtime.core.batch import Scheduled, StepPlan
from steelyard_runtime.engine.failure import Failure, Stage
from steelyard_runtime.engine.request import LiveRequest
from steelyard_runtime.errors import ENDS_PROCESS
from steelyard_runtime.sampling.likeliest import NotFiniteLogitsError
from steelyard_runtime.sampling.logprobs import token_logprobs
from steelyard_runtime.sampling.sampler import Row, sample


@dataclass(frozen=True, slots=True)
class StepTokens:
    """What came of each sequence, by request id; those that did not reach their end are in neither.

    With a token goes its row of raw logits (V,) where log probabilities are wanted.
    """

    tokens: dict[str, tuple[int, Tensor | None]] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)


def sample_step(
    plan: StepPlan,
    logits: Tensor,
    live: Mapping[str, LiveRequest],
    eos_token_ids: tuple[int, ...],
    started_at_ns: int,
) -> StepTokens:
    """Sample a step.

    Args:
        plan: what went through the model.
        logits: (R, V) float32, rows in the plan's order.
        live: the engine's requests; their grammars advance here.
        eos_token_ids: the model's ends of sequence.
        started_at_ns: when the step began; noted at a request's first one.
    """
    result = StepTokens()
    rows: list[Row] = []
    indices: list[int] = []
    requests: list[LiveRequest] = []
    row_start = 0
    for item in plan.scheduled:
        first, row_start = row_start, row_start + len(item.logit_positions)
        request = live[item.sequence.request_id]
        request.scheduled_at_ns = request.scheduled_at_ns or started_at_ns
        stage: Stage = "output"
        try:
            if item.sequence.params.prompt_logprobs is not None:
                _collect_prompt_logprobs(request, item, logits[first:row_start])
            if not item.samples:
                continue
            stage = "grammar" if request.grammar is not None else "sampling"
            row = _row(request, logits, eos_token_ids)
        except ENDS_PROCESS:
            raise
        except BaseException as error:
            result.failures[item.sequence.request_id] = Failure(stage, error)
            continue
        rows.append(row)
        indices.append(row_start - 1)
        requests.append(request)
    if not rows:
        return result
    chosen = logits if len(indices) == logits.shape[0] else logits[indices]
    for position, token in enumerate(sample(chosen, rows)):
        request = requests[position]
        request_id = request.sequence.request_id
        if isinstance(token, BaseException):
            result.failures[request_id] = Failure("sampling", token)
            continue
        failure = _advance(request, token)
        if failure is not None:
            result.failures[request_id] = failure
            continue
        # A view of a tensor for each of hundreds of sequences would be a third of this step's time.
        raw = None if request.sequence.params.logprobs is None else chosen[position]
        result.tokens[request_id] = (token, raw)
    return result


def _advance(request: LiveRequest, token: int) -> Failure | None:
    if request.grammar is None:
        return None
    try:
        request.grammar.advance([token])
    except ENDS_PROCESS:
        raise
    except BaseException as error:
        return Failure("grammar", error)
    return None


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
    """Add what this chunk tells of the prompt; a chunk that is computed again adds nothing."""
    sequence = item.sequence
    collected = request.prompt_logprobs
    if not collected:
        collected.append(None)  # Nothing predicts the first token.
    if not item.logit_positions:
        return
    # Row i predicts the token at position `first` + i.
    first = item.logit_positions[0] + 1
    known = len(collected) - first
    following = sequence.tokens[len(collected) : min(first + len(rows), sequence.num_prompt_tokens)]
    if known >= 0 and following:
        count = sequence.params.prompt_logprobs or 0
        described = token_logprobs(rows[known : known + len(following)], following, count)
        if any(math.isnan(each.logprob) for each in described):
            raise NotFiniteLogitsError
        collected += described

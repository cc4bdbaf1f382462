"""What a sequence got in one step, as the HTTP process is told."""

from torch import Tensor

from steelyard_runtime.engine.request import LiveRequest
from steelyard_runtime.ipc.messages import Output
from steelyard_runtime.sampling.logprobs import token_logprobs


def output(
    live: LiveRequest,
    first_new: int,
    raw_logits: Tensor | None,
    *,
    logits_at_ns: int,
) -> Output:
    """Return the output; what belongs to the first one alone goes with it.

    Args:
        live: the request; its first output is noted.
        first_new: index of the first new token.
        raw_logits: (V,) of the new token, where log probabilities are wanted.
        logits_at_ns: when they were there.
    """
    sequence = live.sequence
    new_tokens = sequence.tokens[first_new:]
    logprobs = None
    count = sequence.params.logprobs
    if count is not None and raw_logits is not None:
        # One row a step, so at most one token.
        logprobs = token_logprobs(raw_logits.unsqueeze(0), new_tokens, count)
    first = not live.first_output_sent
    live.first_output_sent = True
    return Output(
        request_id=sequence.request_id,
        token_ids=new_tokens,
        logprobs=logprobs,
        prompt_logprobs=live.prompt_logprobs if first and live.prompt_logprobs else None,
        finish_reason=sequence.finish_reason,  # type: ignore[arg-type]  # the scheduler's literals
        num_cached_tokens=sequence.num_cached_tokens if first else 0,
        num_remote_tokens=sequence.num_remote_tokens if first else 0,
        scheduled_at_ns=live.scheduled_at_ns if first else 0,
        logits_at_ns=logits_at_ns,
    )

"""The scheduler's settings and counters."""

from dataclasses import dataclass

from steelyard_runtime.core.roles import Role
from steelyard_runtime.core.sequence import Sequence
from steelyard_runtime.errors import RequestError


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What bounds a step, the queue and a sequence.

    `eos_token_ids` are the model's own; `fingerprint` goes into every prefix hash.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_waiting_requests: int
    block_size: int
    max_model_len: int
    prefix_caching: bool = True
    role: Role = Role.BOTH
    eos_token_ids: frozenset[int] = frozenset()
    fingerprint: str = ""
    retry_after_seconds: int = 1

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold the KV of so many tokens."""
        return -(-num_tokens // self.block_size)


@dataclass(slots=True)
class Counters:
    """Totals since the start."""

    preemptions: int = 0
    prefix_queries_tokens: int = 0  # tokens looked up in the prefix cache, once a sequence
    prefix_hits_tokens: int = 0
    prompt_tokens: int = 0  # of sequences whose prefill ended here, cached and pulled ones too
    generation_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Aborted:
    """What an abort found, so that the caller can tell the prefill worker.

    `cancel_pull`: a pull is under way; its blocks stay quarantined until `settle`.
    `release_remote`: no pull was started, but one was asked for.
    """

    sequence: Sequence
    cancel_pull: bool
    release_remote: bool


def check_length(sequence: Sequence, config: SchedulerConfig, max_tokens: int) -> None:
    """Refuse a sequence that leaves no room for one token of output in `max_tokens`.

    Raises:
        RequestError: it does (400).
    """
    if sequence.num_tokens + min(1, sequence.params.max_tokens) <= max_tokens:
        return
    bound = "the model's length" if max_tokens == config.max_model_len else "the KV cache"
    raise RequestError(
        f"The prompt has {sequence.num_tokens} tokens; with at least one token of output "
        f"at most {max_tokens} fit into {bound}.",
        param="prompt",
        code="context_length_exceeded",
    )

"""One sequence: a prompt, what was generated so far, and the KV blocks that hold it.

A request with n choices is n sequences that share a `group_id`.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from steelyard_runtime.core.params import SamplingParams


class SequencePhase(Enum):
    """Where a sequence is; only RUNNING ones are in a batch."""

    WAITING = auto()
    LANDING = auto()  # its prompt's KV is being pulled from a prefill worker
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence's state. The scheduler alone changes it.

    `tokens` is the prompt followed by the output; the KV of positions [0, num_computed) is in
    `block_ids`, block i holding positions [i * block_size, (i + 1) * block_size).
    """

    request_id: str
    tokens: list[int]
    num_prompt_tokens: int
    params: SamplingParams
    group_id: str = ""
    cache_salt: str = ""
    export_kv: bool = False
    phase: SequencePhase = SequencePhase.WAITING
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)
    # Chain hashes of the full blocks of `tokens`, made lazily by the prefix cache.
    block_hashes: list[bytes] = field(default_factory=list)
    num_published: int = 0  # leading blocks whose hashes are in the prefix cache
    num_cached_tokens: int = 0  # prompt tokens from the local prefix cache, first admission
    num_remote_tokens: int = 0  # prompt tokens that were pulled
    num_preemptions: int = 0
    wants_remote: bool = False  # a pull is still to be tried before this sequence may run
    is_held: bool = False  # what its next token needs is not there: it sits steps out
    finish_reason: str | None = None
    error: BaseException | None = None  # why it ended, where `finish_reason` is "error"
    arrival_index: int = 0  # older sequences have smaller ones; set by the scheduler
    is_counted: bool = False  # its prefix-cache query is in the counters
    is_prefilled: bool = False  # its prompt's tokens are in the counters

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens."""
        return len(self.tokens)

    @property
    def output_token_ids(self) -> list[int]:
        """The generated tokens, those resumed from another worker included."""
        return self.tokens[self.num_prompt_tokens :]

    @property
    def num_output_tokens(self) -> int:
        """How many tokens were generated, those resumed from another worker included."""
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def num_pending(self) -> int:
        """Tokens whose KV is still to be computed; 1 while decoding."""
        return len(self.tokens) - self.num_computed

    @property
    def wants_prompt_logits(self) -> bool:
        """Whether prompt log probabilities are still owed; they come before the first output."""
        return self.params.prompt_logprobs is not None and not self.num_output_tokens

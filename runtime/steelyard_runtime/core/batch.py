"""What one step runs: the scheduler's output and the model runner's input."""

from dataclasses import dataclass, field

from steelyard_runtime.core.sequence import Sequence

# Positions of one sequence a step whose logits are all wanted (`echo` with `logprobs`): each costs
# a product with the whole vocabulary. 256 of them held up eight streams for 2.2 s on busy cores.
MAX_PROMPT_LOGITS = 64


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Positions [start, start + count) of one sequence go through the model in this step."""

    sequence: Sequence
    start: int
    count: int
    # Positions whose logits are wanted: the last one where the step reaches the end of the
    # sequence's tokens, more for prompt log probabilities and for draft verification.
    logit_positions: tuple[int, ...]

    @classmethod
    def chunk(cls, sequence: Sequence, at_most: int) -> "Scheduled":
        """Take the next tokens of the sequence that are not computed yet."""
        start = sequence.num_computed
        count = min(sequence.num_pending, at_most)
        if sequence.wants_prompt_logits:
            count = min(count, MAX_PROMPT_LOGITS)
        end = start + count
        logit_positions: tuple[int, ...] = ()
        if sequence.wants_prompt_logits:
            logit_positions = tuple(range(start, end))
        elif end == sequence.num_tokens:
            logit_positions = (end - 1,)
        return cls(sequence, start, count, logit_positions)

    @property
    def samples(self) -> bool:
        """Whether the step ends with a new token for this sequence."""
        return self.start + self.count == self.sequence.num_tokens


@dataclass(frozen=True, slots=True)
class Pull:
    """Start reading the prompt's KV from the prefill worker into these blocks.

    `first_block` blocks were found in the local prefix cache and are not read.
    """

    sequence: Sequence
    block_ids: tuple[int, ...]
    first_block: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. `scheduled` may be empty while `pulls` is not."""

    scheduled: list[Scheduled] = field(default_factory=list)
    pulls: list[Pull] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    failed: list[Sequence] = field(default_factory=list)  # dropped; each one's `error` says why

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model."""
        return sum(item.count for item in self.scheduled)

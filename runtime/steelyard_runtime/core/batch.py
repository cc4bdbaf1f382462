"""What one step runs: the scheduler's output and the model runner's input."""

from dataclasses import dataclass, field

from steelyard_runtime.core.sequence import Sequence


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
    def chunk(cls, sequence: Sequence, count: int) -> "Scheduled":
        """Take the next `count` tokens of the sequence that are not computed yet."""
        start = sequence.num_computed
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

    @property
    def num_tokens(self) -> int:
        """Tokens that go through the model."""
        return sum(item.count for item in self.scheduled)

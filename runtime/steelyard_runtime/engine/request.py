"""What the engine keeps for one sequence beside the scheduler's state."""

from dataclasses import dataclass, field

from steelyard_runtime.core.sequence import Sequence
from steelyard_runtime.ipc.messages import AddRequest, TokenLogprobs
from steelyard_runtime.structured.grammar import GrammarState


@dataclass(slots=True)
class LiveRequest:
    """One sequence between its `AddRequest` and its last `Output`."""

    message: AddRequest
    sequence: Sequence
    grammar: GrammarState | None = None
    scheduled_at_ns: int = 0
    first_output_sent: bool = False
    is_plain: bool = False
    """Its next token is the likeliest one, whatever came before: nothing of it is asked back."""
    # Log probabilities of the prompt's positions, collected over its prefill chunks.
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)

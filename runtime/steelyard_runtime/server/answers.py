"""What chat and completions have in common when they answer: options, usage, the interface."""

from dataclasses import dataclass
from typing import Protocol

from steelyard_runtime.server.event_frames import Identity, member
from steelyard_runtime.server.generation import Generation, Piece


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How the client wants its answer."""

    identity: Identity
    stream: bool = False
    include_usage: bool = False
    return_token_ids: bool = False
    timing: bool = False
    resumed: bool = False


class Answer(Protocol):
    """Turns pieces into events, or collects them into one body."""

    options: AnswerOptions

    def resume(self, text: str) -> None:
        """Take the text of resumed tokens, which the client already has."""
        ...

    def events(self, piece: Piece) -> bytes:
        """Return the events of a piece; empty while its text is held back."""
        ...

    def closing(self, usage: dict[str, object]) -> bytes:
        """Return the events after the last piece, without `[DONE]`."""
        ...

    def collect(self, piece: Piece) -> None:
        """Keep a piece for `body`."""
        ...

    def body(self, usage: dict[str, object]) -> bytes:
        """Return the JSON of everything that was collected."""
        ...


def usage_of(generation: Generation) -> dict[str, object]:
    """Return the `usage` object."""
    prompt, completion = generation.num_prompt_tokens, generation.num_completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": generation.num_cached_tokens},
    }


def timing_field(options: AnswerOptions, piece: Piece) -> bytes:
    """Return the `steelyard` member of a chunk where it was asked for."""
    if not options.timing:
        return b""
    return member("steelyard", {"logits_at_ns": piece.logits_at_ns})

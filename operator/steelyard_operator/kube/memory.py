"""What is remembered of a service between passes; losing it costs requests, nothing else."""

from dataclasses import dataclass, field

from steelyard_operator.kube.acting import Result
from steelyard_operator.planning.flip import Stand

FIRST_REFUSAL_SECONDS, LONGEST_REFUSAL_SECONDS = 5.0, 60.0


@dataclass(slots=True)
class Memory:
    """Of one service: what was refused, what is somebody else's, when its Secret was made."""

    refused: str | None = None
    """What the API server said to a pod; until it admits one, or is asked again."""
    refusals: int = 0
    refused_until: float = float("-inf")
    refused_object: str | None = None
    """What it said to any other object in the last pass."""
    foreign_slots: dict[int, tuple[float, str]] = field(default_factory=dict)
    """By slot: until when it is left out, and a sentence."""
    foreign: tuple[str, ...] = ()
    secret_at: float = float("-inf")
    stands: dict[str, tuple[Stand, float]] = field(default_factory=dict)
    """By uid of a worker that changes its role: where it stands, and since when."""

    @property
    def all_foreign(self) -> tuple[str, ...]:
        """Sentences about all objects in the way, pods included."""
        return (*self.foreign, *(said for _, said in self.foreign_slots.values()))

    def look_again_after(self, now: float) -> float | None:
        """Return the seconds until something is tried again of which nobody tells; None: never."""
        waits = [until - now for until, _ in self.foreign_slots.values()]
        waits += [self.refused_until - now] if self.refused is not None else []
        waits += [LONGEST_REFUSAL_SECONDS] if self.refused_object is not None else []
        return min(waits, default=None)

    def forget_refusals(self) -> None:
        """Nothing is asked for any more."""
        self.refused, self.refusals, self.refused_object = None, 0, None
        self.refused_until = float("-inf")

    def note(self, result: Result, now: float) -> None:
        """Take in whether pods were admitted; while none is, attempts become rarer."""
        if result.refused is not None:
            delay = min(FIRST_REFUSAL_SECONDS * 2.0**self.refusals, LONGEST_REFUSAL_SECONDS)
            self.refused, self.refusals = result.refused, self.refusals + 1
            self.refused_until = now + delay
        elif result.created or now >= self.refused_until:
            self.refused, self.refusals = None, 0

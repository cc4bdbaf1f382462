"""What a simulated run comes to."""

from dataclasses import dataclass, field

from steelyard_operator.planning.balance.cost import dollars_per_million
from steelyard_operator.planning.balance.signals import Objectives
from steelyard_operator.simulation.workers import Job


@dataclass(slots=True)
class Outcome:
    """Counts of one run."""

    policy: str
    objectives: Objectives
    dollars_per_hour: float
    requests: int = 0
    good: int = 0
    late_first: int = 0
    slow: int = 0
    tokens: int = 0
    worker_seconds: float = 0.0
    moves: int = 0
    flips: int = 0
    seconds: float = 0.0  # of simulated time
    splits: list[tuple[float, int, int]] = field(default_factory=list)  # time, prefill, decode

    def add(self, job: Job, now: float) -> None:
        """Count one answered request."""
        request = job.request
        self.requests += 1
        self.tokens += request.input_tokens + request.output_tokens
        late = job.first_token_at - request.at > self.objectives.ttft_seconds
        per_token = (now - job.first_token_at) / max(request.output_tokens - 1, 1)
        slow = per_token > self.objectives.tpot_seconds
        self.late_first += late
        self.slow += slow
        self.good += not (late or slow)

    @property
    def attainment(self) -> float:
        """The share of requests inside both objectives."""
        return self.good / self.requests if self.requests else 1.0

    def document(self) -> dict[str, float | int | str]:
        """Return the run as `steelyard simulate --json` prints it."""
        hours = self.worker_seconds / 3600
        return {
            "policy": self.policy,
            "attainment": round(self.attainment, 5),
            "goodput_rps": round(self.good / self.seconds, 3) if self.seconds else 0.0,
            "accelerator_hours": round(hours, 4),
            "cost_per_million_tokens": round(
                dollars_per_million(self.dollars_per_hour, hours, self.tokens), 5
            ),
            "moves": self.moves,
            "seconds": round(self.seconds, 1),
        }

"""How good a worker is for one request: a sum of named terms, higher is better. Pure.

The terms are in units of "one fully idle worker": a full affinity term outweighs
`LOAD_PER_POINT` more requests in flight than the least loaded candidate has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

LOAD_PER_POINT = 8.0
AFFINITY_HALF_TOKENS = 256.0  # so many warm tokens are worth half a point
FAILURE_POINTS = 0.5  # each recent failure of a worker that still serves
FINGERPRINT_POINTS = 0.25  # a decode worker that some prefill worker can hand over to


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is known of one worker at the time of a request."""

    worker_id: str
    role: str
    fingerprint: str | None
    in_flight: int
    warm_tokens: int  # of this request's prompt, estimated
    recent_failures: int
    last_picked: int  # a sequence number: ties go to the one that waited longest


@dataclass(frozen=True, slots=True)
class Score:
    """One candidate's score and the terms that it is the sum of."""

    candidate: Candidate
    load: float
    affinity: float
    fingerprint: float
    health: float

    @property
    def total(self) -> float:
        """The sum of the terms."""
        return self.load + self.affinity + self.fingerprint + self.health


def score(candidates: Sequence[Candidate], pairable: frozenset[str | None]) -> list[Score]:
    """Score candidates; best first.

    Args:
        candidates: workers that may serve the request.
        pairable: fingerprints for which a counterpart of the other role exists.
    """
    least = min((candidate.in_flight for candidate in candidates), default=0)
    scores = [
        Score(
            candidate,
            load=-(candidate.in_flight - least) / LOAD_PER_POINT,
            affinity=candidate.warm_tokens / (candidate.warm_tokens + AFFINITY_HALF_TOKENS),
            fingerprint=FINGERPRINT_POINTS if candidate.fingerprint in pairable else 0.0,
            health=-FAILURE_POINTS * candidate.recent_failures,
        )
        for candidate in candidates
    ]
    scores.sort(key=lambda one: (-one.total, one.candidate.last_picked))
    return scores

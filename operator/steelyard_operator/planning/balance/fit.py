"""A worker's capacity from what its steps took: least squares over sums, with a pull to a prior.

Workers report sums (`steps` of `GET /state`), which add up and subtract; a fit needs nothing else.
Decode's three costs are fitted as ridge regression (Hoerl and Kennard, 1970) around an even guess,
so that few or alike steps give a careful answer instead of a wild one, and none may be negative.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from steelyard_operator.planning import untrusted
from steelyard_operator.planning.balance.capacity import Capacity

PREFILL = ("count", "seconds", "tokens", "tokensSquared", "tokenSeconds")
DECODE = (
    *("count", "seconds", "sequences", "kvTokens"),
    *("sequencesSquared", "kvTokensSquared", "sequencesKvTokens"),
    *("sequenceSeconds", "kvTokenSeconds"),
)
# Before so many steps nothing is said.
FEWEST_PREFILL_STEPS, FEWEST_DECODE_STEPS = 5, 20
# Older steps fade once there are so many.
REMEMBERED_PREFILL_STEPS, REMEMBERED_DECODE_STEPS = 2_000, 20_000
# Prompts of lengths that differ less than this tell no fixed cost from one of tokens.
LEAST_VARIATION = 0.05
# How a decode step of mean size divides into the step, its sequences and their context, if nothing
# else is known; and how many steps of each hundred that counts for.
EVEN_GUESS = (0.5, 0.3, 0.2)
RIDGE = 0.01

Sums = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StepSums:
    """Sums over steps, in tokens, sequences and seconds; the fields are PREFILL and DECODE."""

    prefill: tuple[float, ...] = (0.0,) * len(PREFILL)
    decode: tuple[float, ...] = (0.0,) * len(DECODE)
    kv_tokens: int = 0
    max_sequences: int = 0
    prefill_step_tokens: int = 0  # 0: not known

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "StepSums":
        """Return the sums of a worker's `steps`.

        Raises:
            KeyError, TypeError, ValueError: it is of another form.
        """
        return cls(
            tuple(untrusted.amount(document["prefill"][name]) for name in PREFILL),
            tuple(untrusted.amount(document["decode"][name]) for name in DECODE),
            untrusted.count(document["kvTokens"], 2**53),
            untrusted.count(document["maxSequences"]),
            untrusted.count(document.get("prefillStepTokens", 0)),
        )

    def since(self, before: "StepSums | None") -> "StepSums":
        """Return what came after; everything where the worker began anew."""
        if before is None or self.prefill[0] < before.prefill[0]:
            return self
        if self.decode[0] < before.decode[0]:
            return self
        return StepSums(
            tuple(a - b for a, b in zip(self.prefill, before.prefill, strict=True)),
            tuple(a - b for a, b in zip(self.decode, before.decode, strict=True)),
            self.kv_tokens,
            self.max_sequences,
            self.prefill_step_tokens,
        )

    def added(self, more: "StepSums") -> "StepSums":
        """Return the sums of both."""
        return StepSums(
            tuple(a + b for a, b in zip(self.prefill, more.prefill, strict=True)),
            tuple(a + b for a, b in zip(self.decode, more.decode, strict=True)),
            more.kv_tokens,
            more.max_sequences,
            more.prefill_step_tokens,
        )

    def plus(self, more: "StepSums") -> "StepSums":
        """Return both together; the old part fades where there are many steps."""
        return StepSums(
            _faded(self.prefill, more.prefill, REMEMBERED_PREFILL_STEPS),
            _faded(self.decode, more.decode, REMEMBERED_DECODE_STEPS),
            more.kv_tokens or self.kv_tokens,
            more.max_sequences or self.max_sequences,
            more.prefill_step_tokens or self.prefill_step_tokens,
        )


def capacity(sums: StepSums) -> Capacity | None:
    """Return what one worker can do in each role, or None before enough was seen."""
    prefill = dict(zip(PREFILL, sums.prefill, strict=True))
    decode = dict(zip(DECODE, sums.decode, strict=True))
    if prefill["count"] < FEWEST_PREFILL_STEPS or decode["count"] < FEWEST_DECODE_STEPS:
        return None
    if prefill["seconds"] <= 0 or decode["seconds"] <= 0 or prefill["tokens"] <= 0:
        return None
    overhead, rate = _prefill(prefill)
    step, per_sequence, per_token = _decode(decode)
    return Capacity(
        prefill_tokens_per_second=rate,
        prefill_overhead_seconds=overhead,
        step_seconds=step,
        step_seconds_per_sequence=per_sequence,
        step_seconds_per_token=per_token,
        kv_tokens=sums.kv_tokens,
        max_sequences=max(1, sums.max_sequences),
        prefill_step_tokens=sums.prefill_step_tokens,
    )


def _faded(old: tuple[float, ...], new: tuple[float, ...], remembered: int) -> tuple[float, ...]:
    kept = max(0.0, min(1.0, (remembered - new[0]) / old[0])) if old[0] else 0.0
    return tuple(kept * a + b for a, b in zip(old, new, strict=True))


def _prefill(sums: Sums) -> tuple[float, float]:
    """Return the seconds that a step takes anyway, and tokens a second beyond them."""
    count, tokens, seconds = sums["count"], sums["tokens"], sums["seconds"]
    spread = sums["tokensSquared"] / count - (tokens / count) ** 2
    if spread > (LEAST_VARIATION * tokens / count) ** 2:
        together = sums["tokenSeconds"] / count - (tokens / count) * (seconds / count)
        slope = together / spread
        overhead = (seconds - slope * tokens) / count
        if slope > 0 and overhead >= 0:
            return overhead, 1 / slope
    return 0.0, tokens / seconds


def _decode(sums: Sums) -> tuple[float, float, float]:
    """Return a, b and c of a step of a + b * sequences + c * tokens in the cache."""
    count = sums["count"]
    mean = sums["seconds"] / count
    sequences = max(sums["sequences"] / count, 1e-9)
    context = max(sums["kvTokens"] / count, 1e-9)
    # Moments of (1, sequences, context), each over its mean, so that the ridge weighs them alike.
    ab = 1.0
    bb = sums["sequencesSquared"] / count / sequences**2
    cc = sums["kvTokensSquared"] / count / context**2
    bc = sums["sequencesKvTokens"] / count / sequences / context
    matrix = ((1.0, ab, ab), (ab, bb, bc), (ab, bc, cc))
    right = (
        mean,
        sums["sequenceSeconds"] / count / sequences,
        sums["kvTokenSeconds"] / count / context,
    )
    found = _not_negative(
        [[matrix[i][j] + (RIDGE if i == j else 0.0) for j in range(3)] for i in range(3)],
        [right[i] + RIDGE * mean * EVEN_GUESS[i] for i in range(3)],
    )
    return found[0], found[1] / sequences, found[2] / context


def _not_negative(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Return the x >= 0 that minimises x'Mx/2 - r'x, by trying which of the three are zero."""
    best, best_value = [0.0, 0.0, 0.0], 0.0
    for size in (3, 2, 1):
        for chosen in combinations(range(3), size):
            part = _solved(
                [[matrix[i][j] for j in chosen] for i in chosen], [right[i] for i in chosen]
            )
            if any(x < 0 for x in part):
                continue
            found = [0.0, 0.0, 0.0]
            for place, x in zip(chosen, part, strict=True):
                found[place] = x
            # At a minimum over the chosen ones the value is -r'x / 2.
            value = -sum(r * x for r, x in zip(right, found, strict=True)) / 2
            if value < best_value:
                best, best_value = found, value
    return best


def _solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a positive definite system by Gauss's elimination."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for place, pivot in enumerate(rows):
        for other in rows[place + 1 :]:
            factor = other[place] / pivot[place]
            other[:] = [a - factor * b for a, b in zip(other, pivot, strict=True)]
    found = [0.0] * len(rows)
    for place in reversed(range(len(rows))):
        known = sum(rows[place][k] * found[k] for k in range(place + 1, len(rows)))
        found[place] = (rows[place][-1] - known) / rows[place][place]
    return found

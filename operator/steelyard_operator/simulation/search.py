"""The best fixed split, with hindsight: the fewest workers that meet the objectives on a trace."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from steelyard_operator.planning.balance.signals import Split
from steelyard_operator.simulation.fleet import Fleet
from steelyard_operator.simulation.outcome import Outcome
from steelyard_operator.simulation.policies import Static
from steelyard_operator.simulation.profiles import Profile
from steelyard_operator.simulation.traces import Request

# A split of fewer workers than this share of the mean load cannot keep up.
LEAST_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Tried:
    """One fixed split and what came of it; given up as soon as it could not reach the objective."""

    split: Split | None  # None: all workers do both
    workers: int
    outcome: Outcome
    reached: bool

    @property
    def label(self) -> str:
        """How the grid calls it."""
        if self.split is None:
            return f"{self.workers} both"
        return f"{self.split.prefill}+{self.split.decode}"


def best_static(
    profile: Profile, requests: list[Request], max_workers: int
) -> tuple[Tried | None, list[Tried]]:
    """Return the cheapest split that meets the objectives, and all that were tried.

    Totals are tried upwards from what the mean load needs; of one total all splits that could
    keep up, and as many workers that do both. The first total at which a split suffices is the end.

    Args:
        profile: of every worker.
        requests: in order of arrival.
        max_workers: the largest total.
    """
    low = _least(profile, requests)
    tried: list[Tried] = []
    for total in range(low.total, max_workers + 1):
        reached = []
        for split in _splits(low, total):
            found = _try(profile, requests, split, total)
            tried.append(found)
            if found.reached and split is not None:
                reached.append(found)
        if reached:
            return max(reached, key=lambda t: t.outcome.attainment), tried
    return None, tried


def _splits(low: Split, total: int) -> Iterator[Split | None]:
    for prefill in range(low.prefill, total - low.decode + 1):
        yield Split(prefill, total - prefill)
    yield None


def _try(profile: Profile, requests: list[Request], split: Split | None, total: int) -> Tried:
    share = profile.objectives.percentile
    fleet = Fleet(
        profile,
        requests,
        Static(),
        start=split or Split(0, 0),
        max_workers=total,
        colocated=0 if split else total,
        give_up=share,
    )
    outcome = fleet.run()
    complete = outcome.requests == len(requests)
    return Tried(split, total, outcome, complete and outcome.attainment >= share)


def _least(profile: Profile, requests: list[Request]) -> Split:
    capacity = profile.capacity
    seconds = max(requests[-1].at, 1.0)
    input_tokens = sum(r.input_tokens for r in requests)
    output_tokens = sum(r.output_tokens for r in requests)
    prefill = capacity.prefill(input_tokens, len(requests)) / seconds
    context = (input_tokens + output_tokens / 2) / len(requests)
    most = capacity.sequences_within(profile.objectives.tpot_seconds, context)
    decode = output_tokens / seconds * capacity.step(most, most * context) / most
    return Split(max(1, math.ceil(prefill * LEAST_SHARE)), max(1, math.ceil(decode * LEAST_SHARE)))

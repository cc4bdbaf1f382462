"""Traffic that swings from long prompts to long answers and back, and what a run is worth. Pure.

A request is good if it was answered inside both objectives; goodput is good requests a second over
the whole run, the time of requests that came late included.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request, in tokens."""

    name: str
    input_tokens: int
    output_tokens: int


PROMPTS = Kind("prompts", 500, 8)
ANSWERS = Kind("answers", 20, 100)
KINDS = {kind.name: kind for kind in (PROMPTS, ANSWERS)}


@dataclass(frozen=True, slots=True)
class Phase:
    """Arrivals of one kind at one rate."""

    kind: Kind
    seconds: float
    rate: float
    """Requests a second."""


@dataclass(frozen=True, slots=True)
class Goals:
    """Latencies in seconds that a good request keeps."""

    ttft_seconds: float
    tpot_seconds: float


def arrivals(phases: Sequence[Phase], seed: int) -> list[dict[str, Any]]:
    """Return Poisson arrivals of each phase, one after the other.

    Args:
        phases: in their order.
        seed: the same for every way to size the service, so that all see the same requests.
    """
    draw = random.Random(seed)
    found, begin = [], 0.0
    for phase in phases:
        at = begin + draw.expovariate(phase.rate)
        while at < begin + phase.seconds:
            found.append({"at": round(at, 3), "kind": phase.kind.name})
            at += draw.expovariate(phase.rate)
        begin += phase.seconds
    return found


def is_good(record: Record, goals: Goals) -> bool:
    """Whether a request was answered inside both objectives."""
    if record["error"]:
        return False
    return bool(
        record["ttft_seconds"] <= goals.ttft_seconds
        and (record["tpot_seconds"] or 0.0) <= goals.tpot_seconds
    )


def summary(records: Sequence[Record], phases: Sequence[Phase], goals: Goals) -> dict[str, Any]:
    """Return goodput, failures and latencies of a run.

    Args:
        records: of all requests.
        phases: that were played.
        goals: a good request's.
    """
    seconds = sum(phase.seconds for phase in phases)
    end = max([seconds, *(one["at"] + one["seconds"] for one in records)])
    good = sum(is_good(one, goals) for one in records)
    found: dict[str, Any] = {
        "requests": len(records),
        "failed": sum(bool(one["error"]) for one in records),
        "good": good,
        "goodput_requests_per_second": round(good / end, 4),
    }
    begin = 0.0
    for number, phase in enumerate(phases, 1):
        mine = [one for one in records if begin <= one["at"] < begin + phase.seconds]
        begin += phase.seconds
        if mine:
            share = sum(is_good(one, goals) for one in mine) / len(mine)
            found[f"phase_{number}_{phase.kind.name}_good_share"] = round(share, 3)
            ttft = [one["ttft_seconds"] for one in mine if not one["error"]]
            found[f"phase_{number}_ttft_p50_seconds"] = round(middle(ttft), 3) if ttft else None
    return found


def middle(values: Sequence[float]) -> float:
    """Return the median, the lower one of two."""
    return sorted(values)[math.ceil(len(values) / 2) - 1]


def crossings(phases: Sequence[Phase]) -> list[float]:
    """Return the seconds at which the traffic turns into the other kind."""
    found, at = [], 0.0
    for before, after in pairwise(phases):
        at += before.seconds
        if before.kind != after.kind:
            found.append(at)
    return found

"""How soon the operator saw that traffic had turned, decided, and had flipped a worker. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from harness.swing import PROMPTS, Phase, crossings


@dataclass(frozen=True, slots=True)
class Tick:
    """One line of the ledger."""

    at: float  # seconds of the Unix epoch
    have: dict[str, int]  # workers by role
    needed: dict[str, int]  # by the demand alone
    chosen: dict[str, int]


def ticks(ledger: Sequence[str]) -> list[Tick]:
    """Return the ticks of a ledger, a line of JSON each."""
    found = []
    for line in ledger:
        entry = json.loads(line)
        decision, signals = entry["decision"], entry["signals"]
        found.append(
            Tick(
                datetime.fromisoformat(entry["time"]).timestamp(),
                {role: signals[role] for role in ("prefill", "decode")},
                decision["needed"],
                decision["split"],
            )
        )
    return found


def reactions(
    flips: Sequence[dict[str, Any]],
    ledger: Sequence[Tick],
    began: float,
    phases: Sequence[Phase],
) -> list[dict[str, Any]]:
    """Return, for each turn of the traffic, when it was in the signals, decided and carried out.

    It is in the signals at the first tick whose demand needs more workers of the other role than
    there are. `decided_after_ticks` counts from there: 0 is the same tick.

    Args:
        flips: of one run, in seconds from its begin.
        ledger: its ticks.
        began: the run's begin, in seconds of the Unix epoch.
        phases: that were played.
    """
    found = []
    kinds = [phase.kind for phase in phases[1:]]
    ends = [*crossings(phases)[1:], float("inf")]
    for crossing, end, kind in zip(crossings(phases), ends, kinds, strict=True):
        to = "prefill" if kind is PROMPTS else "decode"
        mine = [tick for tick in ledger if crossing <= tick.at - began < end]
        seen = _first([tick.needed[to] > tick.have[to] for tick in mine])
        decided = _first([tick.chosen[to] > tick.have[to] for tick in mine])
        flip = next((one for one in flips if crossing <= one["began"] < end), None)
        turn = began + crossing
        late = None if seen is None or decided is None else decided - seen
        found.append(
            {
                "crossing_seconds": crossing,
                "signal_after_seconds": None if seen is None else round(mine[seen].at - turn, 1),
                "decided_after_seconds": (
                    None if decided is None else round(mine[decided].at - turn, 1)
                ),
                "decided_after_ticks": late,
                "flipped_after_seconds": flip and round(flip["began"] - crossing, 1),
            }
        )
    return found


def _first(conditions: Sequence[bool]) -> int | None:
    return next((index for index, holds in enumerate(conditions) if holds), None)

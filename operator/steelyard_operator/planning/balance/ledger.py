"""Decisions as lines of JSON with all that they were made from, and the same decisions again."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from steelyard_operator.errors import UserError
from steelyard_operator.planning.balance.capacity import Capacity
from steelyard_operator.planning.balance.planner import (
    Decision,
    PlannerState,
    Settings,
    decide,
)
from steelyard_operator.planning.balance.signals import Limits, Objectives, Signals


@dataclass(frozen=True, slots=True)
class Replayed:
    """One line's decision, made again."""

    service: str
    time: str
    decision: Decision
    recorded: dict[str, Any] | None
    """What the line says was decided."""


def line(
    signals: Signals, limits: Limits, settings: Settings, decision: Decision, **more: object
) -> str:
    """Return one tick as a line.

    Args:
        signals: what was measured.
        limits: of the resource.
        settings: of the service.
        decision: what was chosen.
        more: `service`, of which this is a tick, `first`, whether the planner began anew with it,
            and whatever else a reader may want.
    """
    return json.dumps(
        {
            **more,
            "signals": asdict(signals),
            "limits": asdict(limits),
            "settings": asdict(settings),
            "decision": asdict(decision),
        },
        separators=(",", ":"),
    )


def replay(lines: Iterable[str], *, arrivals: float = 1.0) -> Iterator[Replayed]:
    """Yield the decision of each line's inputs; lines that are no JSON are a log's, and skipped.

    Args:
        lines: ticks in their order, of any number of services.
        arrivals: as if so many times as many requests had come.

    Raises:
        UserError: a line is no tick.
    """
    states: dict[str, PlannerState] = {}
    for number, text in enumerate(lines, start=1):
        if not text.lstrip().startswith("{"):
            continue
        try:
            tick = json.loads(text)
            signals, limits = Signals(**tick["signals"]), Limits(**tick["limits"])
            given = tick["settings"]
            settings = Settings(
                **{
                    **given,
                    "objectives": Objectives(**given["objectives"]),
                    "capacity": Capacity(**given["capacity"]),
                }
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"line {number} is no tick of a ledger: {error}") from None
        service = str(tick.get("service", ""))
        state = PlannerState() if tick.get("first") else states.get(service, PlannerState())
        signals = _multiplied(signals, arrivals)
        states[service], decision = decide(state, signals, limits, settings)
        yield Replayed(service, str(tick.get("time", "")), decision, tick.get("decision"))


def _multiplied(signals: Signals, arrivals: float) -> Signals:
    if arrivals == 1.0:
        return signals
    return replace(
        signals,
        requests=round(signals.requests * arrivals),
        input_tokens=round(signals.input_tokens * arrivals),
        input_tokens_squared=signals.input_tokens_squared * arrivals,
        finished=round(signals.finished * arrivals),
        finished_output_tokens=round(signals.finished_output_tokens * arrivals),
        context_tokens=round(signals.context_tokens * arrivals),
        decoding=round(signals.decoding * arrivals),
    )

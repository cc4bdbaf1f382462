"""One tick over one service: what the routers and workers say becomes a wanted split.

Pure: `tick(service, balance, facts)`. What it works with goes into the ledger, a line a tick, so
that `steelyard replay` comes to the same decisions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from steelyard_operator.api.plan_status import Workers
from steelyard_operator.api.status import MAX_DECISIONS, DecisionInputs, Outcome
from steelyard_operator.api.status import Decision as Told
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning.balance.capacity import Capacity, tpot_seconds, ttft_seconds
from steelyard_operator.planning.balance.fit import StepSums, capacity
from steelyard_operator.planning.balance.ledger import line
from steelyard_operator.planning.balance.meter import Meter
from steelyard_operator.planning.balance.planner import Decision, PlannerState, Settings, decide
from steelyard_operator.planning.balance.readings import Between, RouterReading, between
from steelyard_operator.planning.balance.signals import Objectives, Split
from steelyard_operator.planning.bounding import (
    hourly,
    is_planned,
    limits,
    max_sequences,
    objectives,
    wake_up,
)
from steelyard_operator.planning.split import WantedSplit
from steelyard_operator.planning.untrusted import MOST

COLD_START_SECONDS = 60.0  # until one has been seen
REALISED_AFTER = timedelta(minutes=5)
# Nothing is known of a worker's speed, and while nothing arrives nothing need be.
ANY = Capacity(1.0, 0.0, 1.0, 0.0, 0.0, 1, 1)
REMEMBERED_PROCESSES = 1_024
DEAREST = 999_999_999.0
# How much of what is known of prefix caches stays in a second: half of it is a minute old.
CACHE_MEMORY = 0.5 ** (1 / 60)

Known = TypeVar("Known")


@dataclass(frozen=True, slots=True)
class Balance:
    """What is carried from tick to tick of one service."""

    readings: Mapping[str, RouterReading] = field(default_factory=dict)
    """The routers' last, by their ids."""
    steps: Mapping[str, StepSums] = field(default_factory=dict)
    """The workers' last, by pod uid."""
    fit: StepSums = field(default_factory=StepSums)
    meter: Meter = field(default_factory=Meter)
    planner: PlannerState = field(default_factory=PlannerState)
    prefilled: tuple[float, float] = (0.0, 0.0)
    """Prompt tokens of prefill workers, and those that were cached; old ones fade."""
    idle_seconds: float = 0.0
    """Since something came or was open."""
    wanted: WantedSplit | None = None
    decisions: tuple[Told, ...] = ()
    """The newest first."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen since the last tick."""

    now: datetime
    seconds: float
    """Since the last tick."""
    routers: Sequence[RouterReading]
    """Of those that answered."""
    workers: Split
    """What is worked towards: serving, starting, or on its way into the role."""
    paid: Split
    """All workers that there are, those that end included."""
    steps: Mapping[str, StepSums] = field(default_factory=dict)
    """Of the workers that were asked, by pod uid."""
    cold_start_seconds: float = COLD_START_SECONDS
    about: str = ""
    """The service's namespace and name, for the ledger."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What came of a tick."""

    balance: Balance
    ledger: str | None = None
    """A line of JSON, where the planner decided."""
    reason: str = ""
    """Why the split is what it is; one CamelCase word."""


def tick(service: InferenceService, balance: Balance, facts: Facts, *, can_flip: bool) -> Tick:
    """Return the next balance of one service.

    Args:
        service: the resource.
        balance: of the last tick; `Balance()` at first.
        facts: what was seen since.
        can_flip: whether the engine can change a worker's role.
    """
    if not facts.routers:
        # Nobody knows what arrives: nothing is chosen, and nothing old is held on to.
        return Tick(replace(balance, wanted=None), reason="NoSignal")
    before = balance.readings
    balance = replace(
        balance,
        readings=_latest(before, {each.id: each for each in facts.routers}),
        fit=_fitted(balance, facts),
        steps=_latest(balance.steps, facts.steps),
        decisions=_realised(service, balance, facts.now),
    )
    if not before:
        return Tick(balance, reason="First")
    came = between(before, facts.routers, facts.seconds)
    balance = replace(
        balance,
        meter=balance.meter.plus(came, facts.paid),
        prefilled=_fading(balance.prefilled, came),
        idle_seconds=balance.idle_seconds + facts.seconds if came.idle else 0.0,
    )
    if not is_planned(service):
        return Tick(replace(balance, wanted=None), reason="NotPlanned")
    if facts.workers.total == 0 and (came.backlog or came.decoding):
        prefill, decode = wake_up(service)
        message = f"{came.backlog + came.decoding} requests wait and there is no worker"
        wanted = WantedSplit(prefill, decode, "FromZero", message)
        return _told(service, balance, facts, came, wanted=wanted)
    return _planned(service, balance, facts, came, can_flip=can_flip)


def _planned(
    service: InferenceService, balance: Balance, facts: Facts, came: Between, *, can_flip: bool
) -> Tick:
    tokens, cached = balance.prefilled
    signals = came.signals(facts.workers, cached / tokens if tokens else 0.0)
    found = capacity(balance.fit)
    if found is None:
        quiet = not came.arrived and not any(past.requests for past in balance.planner.history)
        if not (quiet and came.idle):
            return Tick(replace(balance, wanted=None), reason="NoFit")
        found = ANY
    found = replace(found, max_sequences=max_sequences(service) or found.max_sequences)
    bounds = limits(service, can_flip=can_flip)
    settings = Settings(objectives(service), found, facts.cold_start_seconds)
    planner, decision = decide(balance.planner, signals, bounds, settings)
    written = line(
        signals,
        bounds,
        settings,
        decision,
        service=facts.about,
        time=facts.now.isoformat(),
        first=not balance.planner.history,
    )
    balance = replace(balance, planner=planner)
    if decision.split == facts.workers:
        return Tick(replace(balance, wanted=None), written, decision.reason)
    wanted = WantedSplit(
        decision.split.prefill, decision.split.decode, decision.reason, _why(decision)
    )
    expected = _expected(service, decision, found, settings.objectives)
    return _told(
        service, balance, facts, came, wanted=wanted, decision=decision, expected=expected,
        ledger=written,
    )  # fmt: skip


def _fading(before: tuple[float, float], came: Between) -> tuple[float, float]:
    kept = CACHE_MEMORY**came.seconds
    return before[0] * kept + came.prefilled[0], before[1] * kept + came.prefilled[1]


def _told(
    service: InferenceService,
    balance: Balance,
    facts: Facts,
    came: Between,
    *,
    wanted: WantedSplit,
    decision: Decision | None = None,
    expected: Outcome | None = None,
    ledger: str | None = None,
) -> Tick:
    """Keep a choice among the decisions, unless it is the last one once more."""
    target = Workers(prefill=wanted.prefill, decode=wanted.decode)
    last = balance.decisions[0] if balance.decisions else None
    again = balance.wanted is not None and last is not None and last.target == target
    decisions = balance.decisions
    if not again:
        demand = decision.demand if decision else None
        made = Told(
            time=facts.now.replace(microsecond=0),
            reason=wanted.reason,
            message=wanted.message,
            inputs=DecisionInputs(
                workers=Workers(prefill=facts.workers.prefill, decode=facts.workers.decode),
                requests_per_minute=_told_count(60 * demand.requests if demand else 0),
                input_tokens_per_second=_told_count(demand.input_tokens if demand else 0),
                output_tokens_per_second=_told_count(demand.output_tokens if demand else 0),
                queued_requests=_told_count(came.backlog),
            ),
            target=target,
            predicted=expected,
        )
        decisions = (made, *decisions)[:MAX_DECISIONS]
    return Tick(replace(balance, wanted=wanted, decisions=decisions), ledger, wanted.reason)


def _why(decision: Decision) -> str:
    demand, needed = decision.demand, decision.needed
    return (
        f"{demand.requests:.1f} requests/s of {demand.input_tokens:.0f} prompt and "
        f"{demand.output_tokens:.0f} answer tokens/s need {needed.prefill}+{needed.decode}"
    )


def _expected(
    service: InferenceService, decision: Decision, found: Capacity, goals: Objectives
) -> Outcome:
    demand, split = decision.demand, decision.split
    ttft = ttft_seconds(split.prefill, demand, found, goals.percentile)
    tpot = tpot_seconds(split.decode, demand, found)
    tokens = (demand.input_tokens + demand.output_tokens) * 3600
    price = hourly(service) * split.total / tokens * 1e6 if tokens else 0.0
    return Outcome(
        ttft_milliseconds=milliseconds(ttft),
        tpot_milliseconds=milliseconds(tpot),
        per_million_tokens=dollars(price) if price else None,
    )


def _realised(service: InferenceService, balance: Balance, now: datetime) -> tuple[Told, ...]:
    """Write beside each prediction what came, once it has had its time."""
    due = [d.realised is None and now >= d.time + REALISED_AFTER for d in balance.decisions]
    if not any(due):
        return balance.decisions
    recent = Meter(balance.meter.entries[-5:]).total
    ttft, tpot = recent.latencies(objectives(service).percentile)
    price = recent.cost(hourly(service)).tokens
    came = Outcome(
        ttft_milliseconds=milliseconds(ttft),
        tpot_milliseconds=milliseconds(tpot),
        per_million_tokens=dollars(price) if price else None,
    )
    return tuple(
        each.model_copy(update={"realised": came}) if its_time else each
        for each, its_time in zip(balance.decisions, due, strict=True)
    )


def _told_count(number: float) -> int:
    """Return a count as a status can tell it."""
    return round(min(number, MOST))


def milliseconds(seconds: float | None) -> int | None:
    """Return whole milliseconds, at least 1; None where there is no number."""
    if seconds is None or not math.isfinite(seconds):
        return None
    return min(MOST, max(1, round(seconds * 1000)))


def dollars(amount: float) -> str:
    """Return a price as the API writes it: three digits that count, nine before the point."""
    amount = min(amount, DEAREST)
    if amount <= 0:
        return "0"
    digits = 2 if amount >= 1 else min(9, 2 - math.floor(math.log10(amount)))
    return f"{amount:.{digits}f}"


def _latest(before: Mapping[str, Known], now: Mapping[str, Known]) -> Mapping[str, Known]:
    """Return what is known of living processes, and for a while of dead ones."""
    # Those that have just answered go last, so that the dead are forgotten first.
    silent = {key: known for key, known in before.items() if key not in now}
    return dict([*silent.items(), *now.items()][-REMEMBERED_PROCESSES:])


def _fitted(balance: Balance, facts: Facts) -> StepSums:
    fit = balance.fit
    for uid, sums in facts.steps.items():
        fit = fit.plus(sums.since(balance.steps.get(uid)))
    return fit

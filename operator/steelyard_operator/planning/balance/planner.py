"""One tick: signals in, the wanted split out. Pure: the same inputs give the same decision."""

import math
from dataclasses import dataclass, replace

from steelyard_operator.planning.balance.capacity import (
    Capacity,
    Demand,
    decode_workers,
    prefill_workers,
)
from steelyard_operator.planning.balance.cost import dollars_per_million
from steelyard_operator.planning.balance.forecast import (
    UNREST_SECONDS,
    demand_lately,
    forecast,
    latest,
    quieter,
)
from steelyard_operator.planning.balance.hysteresis import Needed, Past, remembered, settled
from steelyard_operator.planning.balance.signals import Limits, Objectives, Signals, Split

# Over so many ticks sequences are counted.
LIVE_TICKS = 3
# Of a full budget so much of a worker more or less is no reason to move one.
CLEAR_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not change between ticks."""

    objectives: Objectives
    capacity: Capacity
    cold_start_seconds: float
    cooldown_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PlannerState:
    """What is carried from tick to tick."""

    history: tuple[Signals, ...] = ()
    needed: tuple[Needed, ...] = ()
    clock_seconds: float = 0.0
    since_change_seconds: float = 1e9


@dataclass(frozen=True, slots=True)
class Decision:
    """The wanted split, what it was chosen for, and why."""

    split: Split
    demand: Demand
    needed: Split  # by the demand alone, before limits and hysteresis
    reason: str  # one CamelCase word


def decide(
    state: PlannerState, signals: Signals, limits: Limits, settings: Settings
) -> tuple[PlannerState, Decision]:
    """Return the next state and the decision of this tick.

    Args:
        state: of the last tick; `PlannerState()` at first.
        signals: measured since then.
        limits: of the resource.
        settings: of the service.
    """
    history = tuple(latest((*state.history, signals), UNREST_SECONDS))
    rates = forecast(history, settings.cold_start_seconds + signals.seconds)
    needed = _needed(rates.demand, signals, settings, history[-LIVE_TICKS:])
    short = _needed(demand_lately(history), signals, settings, history[-LIVE_TICKS:])
    # A role whose load rises has enough for the last seconds, and soon will not: what it gave away
    # it would ask back at once, from a role that then lacks it.
    quiet = quieter(history)
    least = Split(
        min(needed.prefill, short.prefill) if quiet[0] else needed.prefill,
        min(needed.decode, short.decode) if quiet[1] else needed.decode,
    )
    clock = state.clock_seconds + signals.seconds
    needs = state.needed
    now = Split(signals.prefill, signals.decode)
    waited = state.since_change_seconds + signals.seconds
    if rates.certain:
        lasting = replace(needed, prefill=needed.prefill - _catching_up(signals, settings))
        needs = remembered(needs, clock, lasting, least, settings.cold_start_seconds)
    if not rates.certain or waited < settings.cooldown_seconds:
        chosen, reason = now, "Watching"
    else:
        had = Split(max(each.prefill for each in history), max(each.decode for each in history))
        past = Past(needs, sum(each.seconds for each in history), had)
        chosen, reason = settled(now, needed, past, limits)
    chosen, reason = _within(chosen, reason, now, limits, rates.demand)
    changed = chosen != now
    return (
        PlannerState(history, needs, clock, 0.0 if changed else waited),
        Decision(chosen, rates.demand, needed, reason),
    )


def _needed(
    demand: Demand, signals: Signals, settings: Settings, live: tuple[Signals, ...]
) -> Split:
    prefill = prefill_workers(demand, settings.capacity, settings.objectives)
    decode = decode_workers(demand, settings.capacity, settings.objectives)
    # What waits is not in the rate of arrivals: it must go while a new worker starts.
    prefill += _catching_up(signals, settings)
    most = settings.capacity.sequences_within(
        settings.objectives.tpot_seconds, demand.context_tokens
    )
    decode = max(decode, _decode_by_sequences(live, demand, settings, most))
    if signals.decoding > most * max(signals.decode, 1):
        late = _sequences_late(signals, demand, settings, most)
        decode = max(decode, min(-(-signals.decoding // most), decode + late))
    # An open request needs its workers, however long ago it came.
    if signals.backlog_tokens > 0:
        prefill, decode = max(prefill, 1), max(decode, 1)
    elif signals.decoding > 0:
        decode = max(decode, 1)
    return Split(prefill, decode)


def _catching_up(signals: Signals, settings: Settings) -> int:
    """Return the prefill workers for what waits beyond the objective."""
    backlog = signals.backlog_tokens / settings.capacity.prefill_tokens_per_second
    late = backlog - settings.objectives.ttft_seconds * max(signals.prefill, 1)
    return math.ceil(max(late, 0.0) / settings.cold_start_seconds)


def _sequences_late(signals: Signals, demand: Demand, settings: Settings, most: int) -> int:
    """Return the decode workers for the sequences beyond what the objective allows."""
    answer = demand.output_tokens / demand.requests if demand.requests else 1.0
    seconds = max(1.0, answer) * settings.capacity.step(most, most * demand.context_tokens)
    turns = max(1.0, settings.cold_start_seconds / seconds)
    return math.ceil((signals.decoding - most * signals.decode) / most / turns)


def _decode_by_sequences(
    live: tuple[Signals, ...], demand: Demand, settings: Settings, most: int
) -> int:
    """Return the decode workers for the tokens that the sequences of now make.

    Answers that have ended tell the lengths of those before; that answers become longer shows in
    how many sequences there are at once.
    """
    capacity, context = settings.capacity, demand.context_tokens
    workers = max(live[-1].decode, 1)
    each = sum(tick.decoding for tick in live) / len(live) / workers
    each = min(each, capacity.max_sequences)
    if each <= 0:
        return 0
    rate = workers * each / capacity.step(each, each * context)
    return math.ceil(rate * capacity.step(most, most * context) / most)


def _within(
    split: Split, reason: str, now: Split, limits: Limits, demand: Demand
) -> tuple[Split, str]:
    """Return the split inside the limits; where both roles do not fit, both give way alike."""

    def bounded(count: int, low: int, high: int | None, fixed: int | None) -> int:
        if fixed is not None:
            return fixed
        return max(low, count if high is None else min(count, high))

    prefill = bounded(split.prefill, limits.min_prefill, limits.max_prefill, limits.fixed_prefill)
    decode = bounded(split.decode, limits.min_decode, limits.max_decode, limits.fixed_decode)
    prefill, decode = _in_ratio(prefill, decode, limits)
    room = limits.max_workers
    allowed = _affordable(limits, demand)
    if allowed is not None and prefill + decode > allowed:
        room, reason = min(room, max(allowed, limits.min_prefill + limits.min_decode)), "Ceiling"
    if prefill + decode > room:
        if limits.fixed_prefill is not None:
            decode = max(0, room - prefill)
        elif limits.fixed_decode is not None:
            prefill = max(0, room - decode)
        else:
            # By what each needs, not by what it may have: the role that lacks most gets most.
            # And where that is no clear step away from what there is, what there is stays.
            exact = room * split.prefill / max(split.total, 1)
            share = now.prefill if abs(now.prefill - exact) < CLEAR_SHARE else round(exact)
            least, most = max(limits.min_prefill, room - decode), room - limits.min_decode
            prefill = min(max(share, least), most, prefill)
            decode = room - prefill
        if reason != "Ceiling":
            reason = "AtMost"
    return Split(prefill, decode), reason


def _in_ratio(prefill: int, decode: int, limits: Limits) -> tuple[int, int]:
    """Return both numbers, the one raised that is too small for the other."""
    low, high = limits.min_prefill_percent, limits.max_prefill_percent
    if low is not None and limits.fixed_prefill is None and prefill * 100 < low * decode:
        most = limits.max_prefill
        wanted = -(-low * decode // 100)
        return (wanted if most is None else min(wanted, most)), decode
    if high is not None and limits.fixed_decode is None and prefill * 100 > high * decode:
        most = limits.max_decode
        wanted = -(-prefill * 100 // high)
        return prefill, (wanted if most is None else min(wanted, most))
    return prefill, decode


def _affordable(limits: Limits, demand: Demand) -> int | None:
    """Return how many workers the ceiling of $/Mtok pays for at this demand."""
    ceiling = limits.ceiling_per_million_tokens
    tokens = demand.input_tokens + demand.output_tokens
    if ceiling is None or limits.dollars_per_worker_hour <= 0 or tokens <= 0:
        return None
    each = dollars_per_million(limits.dollars_per_worker_hour, 1.0, tokens * 3600)
    return int(ceiling / each) if each else None

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
from steelyard_operator.planning.balance.forecast import UNREST_SECONDS, forecast
from steelyard_operator.planning.balance.signals import Limits, Objectives, Signals, Split

# How long a role must have been too large before a worker is removed: a new one costs a cold start.
HOLD_SECONDS = 180.0
# What is more than a spare worker above the need of so long goes sooner, down to half of what was
# needed within the hold: traffic that pauses comes back.
SHORT_HOLD_SECONDS, SPARE = 10.0, 0.05
# Nothing goes before so much was seen, and none of a role whose need has risen within so long.
SHRINK_AFTER_SECONDS, RISE_SECONDS = 60.0, 30.0
# Over so many ticks sequences are counted.
LIVE_TICKS = 3
# How long before one changes its role: changing back costs a drain.
FLIP_HOLD_SECONDS = 20.0
# Spare for so long, a worker is waited for instead of a new one being made.
FLIP_SOON_SECONDS = 10.0
# And how long demand must have been seen at all: a rate needs its window.
FLIP_AFTER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not change between ticks."""

    objectives: Objectives
    capacity: Capacity
    cold_start_seconds: float
    cooldown_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Needed:
    """What one tick asked for."""

    age_seconds: float
    split: Split


@dataclass(frozen=True, slots=True)
class PlannerState:
    """What is carried from tick to tick."""

    history: tuple[Signals, ...] = ()
    needed: tuple[Needed, ...] = ()
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
    history = _kept((*state.history, signals), UNREST_SECONDS)
    rates = forecast(history, settings.cold_start_seconds + signals.seconds)
    needed = _needed(rates.demand, signals, settings, history[-LIVE_TICKS:])
    aged = tuple(
        replace(past, age_seconds=past.age_seconds + signals.seconds)
        for past in state.needed
        if past.age_seconds + signals.seconds <= HOLD_SECONDS
    )
    recent = (*aged, Needed(0.0, needed))
    now = Split(signals.prefill, signals.decode)
    waited = state.since_change_seconds + signals.seconds
    if not rates.certain or waited < settings.cooldown_seconds:
        chosen, reason = now, "Watching"
    else:
        seen_seconds = sum(tick.seconds for tick in history)
        chosen, reason = _with_hysteresis(
            now,
            needed,
            recent,
            limits,
            flip_held_whole=seen_seconds >= FLIP_AFTER_SECONDS,
            seen_seconds=seen_seconds,
        )
    chosen, reason = _within(chosen, reason, limits, rates.demand)
    changed = chosen != now
    return (
        PlannerState(history, recent, 0.0 if changed else waited),
        Decision(chosen, rates.demand, needed, reason),
    )


def _needed(
    demand: Demand, signals: Signals, settings: Settings, lately: tuple[Signals, ...]
) -> Split:
    prefill = prefill_workers(demand, settings.capacity, settings.objectives)
    decode = decode_workers(demand, settings.capacity, settings.objectives)
    # What waits is not in the rate of arrivals: it must go while a new worker starts.
    backlog = signals.backlog_tokens / settings.capacity.prefill_tokens_per_second
    late = backlog - settings.objectives.ttft_seconds * max(signals.prefill, 1)
    if late > 0:
        prefill += math.ceil(late / settings.cold_start_seconds)
    most = settings.capacity.sequences_within(
        settings.objectives.tpot_seconds, demand.context_tokens
    )
    if signals.decoding > most * max(signals.decode, 1):
        decode = max(decode, -(-signals.decoding // most))
    decode = max(decode, _decode_by_sequences(lately, demand, settings, most))
    # An open request needs its workers, however long ago it came.
    if signals.backlog_tokens > 0:
        prefill, decode = max(prefill, 1), max(decode, 1)
    elif signals.decoding > 0:
        decode = max(decode, 1)
    return Split(prefill, decode)


def _decode_by_sequences(
    lately: tuple[Signals, ...], demand: Demand, settings: Settings, most: int
) -> int:
    """Return the decode workers for the tokens that the sequences of now make.

    Answers that have ended tell the lengths of those before; that answers become longer shows in
    how many sequences there are at once.
    """
    capacity, context = settings.capacity, demand.context_tokens
    workers = max(lately[-1].decode, 1)
    each = sum(tick.decoding for tick in lately) / len(lately) / workers
    if each <= 0:
        return 0
    rate = workers * each / capacity.step(each, each * context)
    return math.ceil(rate * capacity.step(most, most * context) / most)


def _with_hysteresis(
    now: Split,
    needed: Split,
    recent: tuple[Needed, ...],
    limits: Limits,
    *,
    flip_held_whole: bool,
    seen_seconds: float,
) -> tuple[Split, str]:
    """Grow at once; shrink what was too large for the whole hold; flip before adding."""
    held = _most(recent, HOLD_SECONDS)
    grow = Split(max(now.prefill, needed.prefill), max(now.decode, needed.decode))
    may_flip = limits.flips and None is limits.fixed_prefill is limits.fixed_decode
    if may_flip and flip_held_whole:
        spare = _spare(now, recent, limits, FLIP_HOLD_SECONDS)
        missing = Split(grow.prefill - now.prefill, grow.decode - now.decode)
        if missing.prefill > 0 and spare.decode > 0:
            moved = min(missing.prefill, spare.decode)
            return Split(now.prefill + missing.prefill, now.decode - moved), "MorePrefill"
        if missing.decode > 0 and spare.prefill > 0:
            moved = min(missing.decode, spare.prefill)
            return Split(now.prefill - moved, now.decode + missing.decode), "MoreDecode"
        soon = _spare(now, recent, limits, FLIP_SOON_SECONDS)
        if 0 < missing.prefill <= soon.decode or 0 < missing.decode <= soon.prefill:
            # What is about to be spare is there sooner than a worker that is made.
            return now, "FlipSoon"
    if grow != now:
        return grow, "MoreDemand"
    if seen_seconds < SHRINK_AFTER_SECONDS:
        return now, "Watching"
    lately = _most(recent, SHORT_HOLD_SECONDS)
    most = Split(
        max(_with_spare(lately.prefill), math.ceil(held.prefill / 2)),
        max(_with_spare(lately.decode), math.ceil(held.decode / 2)),
    )
    if seen_seconds >= HOLD_SECONDS:
        most = Split(min(most.prefill, held.prefill), min(most.decode, held.decode))
    lowest = _least(recent, RISE_SECONDS)
    needed = recent[-1].split
    shrunk = Split(
        now.prefill if needed.prefill > lowest.prefill else min(now.prefill, most.prefill),
        now.decode if needed.decode > lowest.decode else min(now.decode, most.decode),
    )
    return shrunk, "LessDemand" if shrunk != now else "Steady"


def _most(recent: tuple[Needed, ...], seconds: float) -> Split:
    """Return the most workers of each role that were needed in so long."""
    lately = [past.split for past in recent if past.age_seconds <= seconds]
    return Split(max(each.prefill for each in lately), max(each.decode for each in lately))


def _least(recent: tuple[Needed, ...], seconds: float) -> Split:
    """Return the fewest."""
    lately = [past.split for past in recent if past.age_seconds <= seconds]
    return Split(min(each.prefill for each in lately), min(each.decode for each in lately))


def _with_spare(count: int) -> int:
    return count + max(1, math.ceil(SPARE * count))


def _spare(now: Split, recent: tuple[Needed, ...], limits: Limits, seconds: float) -> Split:
    """Return how many workers of each role were not needed for so long."""
    lately = [past.split for past in recent if past.age_seconds <= seconds]
    return Split(
        now.prefill - max(limits.min_prefill, *(each.prefill for each in lately)),
        now.decode - max(limits.min_decode, *(each.decode for each in lately)),
    )


def _within(split: Split, reason: str, limits: Limits, demand: Demand) -> tuple[Split, str]:
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
            share = round(room * split.prefill / max(split.total, 1))
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


def _kept(history: tuple[Signals, ...], seconds: float) -> tuple[Signals, ...]:
    taken, start = 0.0, len(history)
    while start and taken < seconds:
        start -= 1
        taken += history[start].seconds
    return history[start:]

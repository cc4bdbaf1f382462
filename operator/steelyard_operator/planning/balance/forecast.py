"""Demand over the time that an act takes: the rate of now, its trend, and a margin for chance."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steelyard_operator.planning.balance.capacity import Demand
from steelyard_operator.planning.balance.signals import Signals

RATE_SECONDS = 60.0  # over which the rate of now is taken
# What a role needs that may give workers away: over so long, with so many standard deviations.
LATELY_SECONDS, LATELY_MARGIN = 10.0, 2.0
TREND_SECONDS = 180.0  # and how far back its trend goes
# Few answers tell little of their lengths: so many are taken, as far back as this.
LENGTH_ANSWERS, LENGTH_SECONDS = 1000, 300.0
# Where so many answers have ended lately, and are so many times as long or as short as those of the
# minutes before, the traffic is another: then only the lately ended count.
SWING_ANSWERS, SWING = 20, 1.5
# And where arrivals of the last ticks are so many times more or fewer than those before them in the
# window, by so many standard deviations, only those of the last ticks are the rate of now.
SWING_DEVIATIONS, SWING_TICKS = 4.0, 2
UNREST_SECONDS = 600.0  # over which it is seen how much a rate changes while an act takes effect
# Where that is not known yet: a tenth of the rate.
UNKNOWN_UNREST = 0.1
# Nor is a swing from one kind of traffic to another held against all that comes after it.
MOST_UNREST = 0.25
# A trend is not followed further than this: bursts end.
MOST_GROWTH = 0.3
MOST_FALL = 0.2
# Standard deviations: of the rate's own noise, requests being unequal (a compound Poisson process),
# and of its changes. With 0.7 Mooncake's trace has 91 % of its requests where 95 % are asked.
MARGIN = 0.9


@dataclass(frozen=True, slots=True)
class Rates:
    """What a forecast says besides the demand."""

    demand: Demand
    certain: bool  # whether enough was seen to act on


def forecast(history: Sequence[Signals], horizon_seconds: float) -> Rates:
    """Return the demand `horizon_seconds` from now.

    Args:
        history: the ticks so far, oldest first; only the last minutes count.
        horizon_seconds: how long an act takes to help.
    """
    window = latest(history, RATE_SECONDS)
    certain = sum(tick.seconds for tick in window) >= RATE_SECONDS / 2
    growth = 1 + max(-MOST_FALL, min(_growth(history) * horizon_seconds, MOST_GROWTH))
    unrest = _unrest(history, horizon_seconds)
    lengths = _lengths(history, window)
    return Rates(_demand(_since_swing(window), lengths, MARGIN, unrest, growth), certain)


def demand_lately(history: Sequence[Signals]) -> Demand:
    """Return the demand of the last seconds alone, with a wide margin for their noise."""
    lengths = _lengths(history, latest(history, RATE_SECONDS))
    return _demand(latest(history, LATELY_SECONDS), lengths, LATELY_MARGIN)


def quieter(history: Sequence[Signals]) -> tuple[bool, bool]:
    """Return whether the last seconds brought less than the minute: for prefill, and for decode."""
    lately, minute = latest(history, LATELY_SECONDS), latest(history, RATE_SECONDS)
    seconds = [sum(tick.seconds for tick in ticks) for ticks in (lately, minute)]
    if min(seconds) <= 0:
        return False, False

    def less(amount: Callable[[Signals], float]) -> bool:
        rates = [
            sum(amount(tick) for tick in ticks) / time
            for ticks, time in zip((lately, minute), seconds, strict=True)
        ]
        return rates[0] < rates[1]

    # Decode also has less to do where as many answers are shorter ones.
    return less(lambda tick: tick.input_tokens), (
        less(lambda tick: tick.requests) or less(lambda tick: tick.finished_output_tokens)
    )


def _demand(
    ticks: Sequence[Signals],
    lengths: Sequence[Signals],
    margin: float,
    unrest: float = 0.0,
    growth: float = 1.0,
) -> Demand:
    """Return the demand of some ticks, with `margin` standard deviations, times `growth`.

    Args:
        ticks: whose arrivals count.
        lengths: whose ended answers tell how long those of now are.
        margin: in standard deviations of the rate's own noise, and of its changes.
        unrest: the relative change of the rate.
        growth: a factor.
    """
    seconds = sum(tick.seconds for tick in ticks)
    requests = sum(tick.requests for tick in ticks)
    if not requests or seconds <= 0:
        return Demand(0.0, 0.0, 1.0, 0.0, 1.0)
    tokens = sum(tick.input_tokens for tick in ticks)
    squares = sum(tick.input_tokens_squared for tick in ticks)
    finished = sum(tick.finished for tick in lengths)
    # Before the first answer has ended nothing is known of their lengths: as long as the prompts.
    output = sum(tick.finished_output_tokens for tick in lengths) / finished if finished else 256.0
    context = (
        sum(tick.context_tokens for tick in lengths) / finished - output / 2
        if finished
        else tokens / requests
    )
    rate = tokens / seconds
    rate += margin * (math.sqrt(squares) / seconds + rate * unrest)
    arrivals = (requests + margin * math.sqrt(requests)) / seconds
    return Demand(
        requests=arrivals * growth,
        input_tokens=rate * growth,
        spread=max(1.0, squares * requests / tokens**2) if tokens else 1.0,
        output_tokens=arrivals * output * growth,
        context_tokens=max(1.0, context),
    )


def _since_swing(window: Sequence[Signals]) -> Sequence[Signals]:
    """Return the ticks since the arrivals became others, all of them where they did not."""
    most, found = SWING_DEVIATIONS, window
    for begin in range(1, len(window) - SWING_TICKS + 1):
        before, after = window[:begin], window[begin:]
        seconds = [sum(tick.seconds for tick in part) for part in (before, after)]
        if min(seconds) <= 0:
            continue
        for amount, square in (
            ([t.input_tokens for t in window], [t.input_tokens_squared for t in window]),
            ([t.requests for t in window], [t.requests for t in window]),
        ):
            rates = sum(amount[:begin]) / seconds[0], sum(amount[begin:]) / seconds[1]
            # Of a compound Poisson process, if all were the same traffic.
            variance = sum(square) / sum(seconds) * (1 / seconds[0] + 1 / seconds[1])
            noise = math.sqrt(variance)
            if max(rates) > SWING * min(rates) and abs(rates[1] - rates[0]) > most * noise:
                most, found = abs(rates[1] - rates[0]) / noise, after
    return found


def _lengths(history: Sequence[Signals], recent: Sequence[Signals]) -> Sequence[Signals]:
    """Return the ticks whose answers tell how long those of now are."""
    lately, long = _answer(recent), _answer(latest(history, LENGTH_SECONDS))
    swings = lately > SWING * long or long > SWING * lately
    enough = sum(tick.finished for tick in recent) >= SWING_ANSWERS
    if swings and enough:
        return recent
    window = latest(history, LENGTH_SECONDS)
    finished, start = 0, len(window)
    while start and finished < LENGTH_ANSWERS:
        start -= 1
        finished += window[start].finished
    return window[start:]


def _answer(ticks: Sequence[Signals]) -> float:
    """Return the mean length of ended answers in tokens."""
    finished = sum(tick.finished for tick in ticks)
    return sum(tick.finished_output_tokens for tick in ticks) / finished if finished else 0.0


def _growth(history: Sequence[Signals]) -> float:
    """Return the relative growth of arrivals a second, 0 where they do not clearly grow."""
    window = latest(history, TREND_SECONDS)
    half = len(window) // 2
    if half < 2:
        return 0.0
    before, after = window[:half], window[half:]
    seconds = [sum(tick.seconds for tick in part) for part in (before, after)]
    counts = [sum(tick.requests for tick in part) for part in (before, after)]
    if not all(counts) or min(seconds) <= 0:
        return 0.0
    rates = [count / time for count, time in zip(counts, seconds, strict=True)]
    noise = 2 * math.sqrt(sum(counts)) / min(seconds)
    change = rates[1] - rates[0]
    rise = math.copysign(max(0.0, abs(change) - noise), change)
    return rise / (sum(seconds) / 2) / rates[1]


def _unrest(history: Sequence[Signals], horizon_seconds: float) -> float:
    """Return the mean size of the relative change of a rate over the horizon, as it was lately."""
    window = latest(history, UNREST_SECONDS)
    if not window:
        return UNKNOWN_UNREST
    bucket = max(1, round(horizon_seconds / 3 / (sum(t.seconds for t in window) / len(window))))
    amounts = [tick.input_tokens for tick in window]
    sums = [sum(amounts[i : i + bucket]) for i in range(0, len(amounts) - bucket + 1, bucket)]
    pairs = [(a, b) for a, b in zip(sums, sums[3:], strict=False) if a > 0]
    if len(pairs) < 4:
        return UNKNOWN_UNREST
    changes = (min(abs(b / a - 1), MOST_UNREST) for a, b in pairs)
    return math.sqrt(sum(change**2 for change in changes) / len(pairs))


def latest(history: Sequence[Signals], seconds: float) -> Sequence[Signals]:
    """Return the fewest newest ticks that are at least so long together, all where none are."""
    taken, start = 0.0, len(history)
    while start and taken < seconds:
        start -= 1
        taken += history[start].seconds
    return history[start:]

"""What tokens cost and how fast answers came, over the last ten minutes.

All time of workers counts, starting, idle and draining included. The cost of a million tokens is
that of all workers over all tokens, prompts and answers alike. The costs of input and of output
divide it by role: prefill workers over prompt tokens, decode workers over answer tokens.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from steelyard_operator.planning.balance.cost import dollars_per_million
from steelyard_operator.planning.balance.readings import Between, quantile_seconds
from steelyard_operator.planning.balance.signals import Split

WINDOW_SECONDS = 600.0
BUCKET_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Dollars (or what the price is in) per million tokens; None without tokens."""

    tokens: float | None
    input: float | None
    output: float | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over a time."""

    seconds: float = 0.0
    prefill_seconds: float = 0.0
    """Of prefill workers: two for a minute are 120."""
    decode_seconds: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    ttft: Mapping[int, int] = field(default_factory=dict)
    tpot: Mapping[int, int] = field(default_factory=dict)

    def plus(self, more: "Counts") -> "Counts":
        """Return both together."""
        return Counts(
            self.seconds + more.seconds,
            self.prefill_seconds + more.prefill_seconds,
            self.decode_seconds + more.decode_seconds,
            self.input_tokens + more.input_tokens,
            self.output_tokens + more.output_tokens,
            _added(self.ttft, more.ttft),
            _added(self.tpot, more.tpot),
        )

    def cost(self, dollars_per_worker_hour: float) -> Cost:
        """Return what a million tokens cost."""

        def per_million(seconds: float, tokens: int) -> float | None:
            if not tokens:
                return None
            return dollars_per_million(dollars_per_worker_hour, seconds / 3600, tokens)

        return Cost(
            per_million(
                self.prefill_seconds + self.decode_seconds,
                self.input_tokens + self.output_tokens,
            ),
            per_million(self.prefill_seconds, self.input_tokens),
            per_million(self.decode_seconds, self.output_tokens),
        )

    def latencies(self, share: float) -> tuple[float | None, float | None]:
        """Return TTFT and TPOT in seconds that a share of the streams kept."""
        return quantile_seconds(self.ttft, share), quantile_seconds(self.tpot, share)


@dataclass(frozen=True, slots=True)
class Meter:
    """The last ten minutes, a minute an entry."""

    entries: tuple[Counts, ...] = ()

    def plus(self, came: Between, paid: Split) -> "Meter":
        """Return the meter after one more time.

        Args:
            came: what the routers had in it.
            paid: workers that there were, whatever they did.
        """
        more = Counts(
            came.seconds,
            paid.prefill * came.seconds,
            paid.decode * came.seconds,
            came.input_tokens,
            came.output_tokens,
            came.ttft,
            came.tpot,
        )
        entries = list(self.entries)
        if entries and entries[-1].seconds + came.seconds <= BUCKET_SECONDS:
            entries[-1] = entries[-1].plus(more)
        else:
            entries.append(more)
        while len(entries) > 1 and sum(e.seconds for e in entries[1:]) >= WINDOW_SECONDS:
            del entries[0]
        return Meter(tuple(entries))

    @property
    def total(self) -> Counts:
        """Everything in the window."""
        return _together(self.entries)


def _together(entries: Iterable[Counts]) -> Counts:
    total = Counts()
    for entry in entries:
        total = total.plus(entry)
    return total


def _added(one: Mapping[int, int], other: Mapping[int, int]) -> Mapping[int, int]:
    found = dict(one)
    for place, count in other.items():
        found[place] = found.get(place, 0) + count
    return found

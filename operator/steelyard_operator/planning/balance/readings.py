"""What routers report (`GET /router/signals`), and what came between two readings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steelyard_operator.planning import untrusted
from steelyard_operator.planning.balance.signals import Signals, Split

SUMS = (
    "arrived",
    "inputTokens",
    "inputTokensSquared",
    "finished",
    "outputTokens",
    "contextTokens",
)
LONGEST_ID = 128
MOST_BUCKETS = 64  # a router of this version has 40


@dataclass(frozen=True, slots=True)
class RouterReading:
    """One router's sums since its process began, and what is open there now."""

    id: str
    sums: tuple[float, ...]
    """In the order of SUMS."""
    backlog: int = 0
    """Streams without a first token."""
    backlog_tokens: int = 0
    """Of their prompts."""
    decoding: int = 0
    ttft: tuple[int, ...] = ()
    """Streams by time to the first token: bucket i at most 2**(i / 2) ms."""
    tpot: tuple[int, ...] = ()
    prefilled: tuple[float, float] = (0.0, 0.0)
    """Prompt tokens that prefill workers answered for, and how many of those they had cached."""

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "RouterReading":
        """Return the reading that a document is.

        Raises:
            KeyError, TypeError, ValueError: it is of another form, or a value is out of bounds.
        """
        document = untrusted.mapping(document)
        return cls(
            id=untrusted.word(document["id"], LONGEST_ID),
            sums=tuple(untrusted.amount(document[name]) for name in SUMS),
            backlog=untrusted.count(document["backlog"]),
            backlog_tokens=untrusted.count(document["backlogTokens"], 2**53),
            decoding=untrusted.count(document["decoding"]),
            ttft=untrusted.counts(document.get("ttft") or [], MOST_BUCKETS),
            tpot=untrusted.counts(document.get("tpot") or [], MOST_BUCKETS),
            # A router of an older version does not say.
            prefilled=(
                untrusted.amount(document.get("prefilledTokens") or 0),
                untrusted.amount(document.get("cachedTokens") or 0),
            ),
        )


@dataclass(frozen=True, slots=True)
class Between:
    """What came at all routers between two readings, and what is open now."""

    seconds: float
    sums: tuple[float, ...] = (0.0,) * len(SUMS)
    backlog: int = 0
    backlog_tokens: int = 0
    decoding: int = 0
    ttft: Mapping[int, int] = field(default_factory=dict)
    """By bucket, where there is any."""
    tpot: Mapping[int, int] = field(default_factory=dict)
    prefilled: tuple[float, float] = (0.0, 0.0)
    """Prompt tokens that prefill workers answered for, and how many of those they had cached."""

    @property
    def arrived(self) -> int:
        """Requests."""
        return int(self.sums[0])

    @property
    def output_tokens(self) -> int:
        """Of requests that have ended."""
        return int(self.sums[4])

    @property
    def input_tokens(self) -> int:
        """Of requests that have ended, as the workers counted them."""
        return max(0, int(self.sums[5] - self.sums[4]))

    @property
    def idle(self) -> bool:
        """Whether nothing came and nothing is open."""
        return not (any(self.sums) or self.backlog or self.decoding)

    def signals(self, workers: Split, cached_share: float = 0.0) -> Signals:
        """Return what the planner takes.

        Args:
            workers: that there are.
            cached_share: of prompt tokens that are in a prefix cache and need no prefill.
        """
        arrived, tokens, squared, finished, output, context = self.sums
        computed = 1 - cached_share
        return Signals(
            seconds=self.seconds,
            requests=int(arrived),
            input_tokens=int(tokens * computed),
            input_tokens_squared=squared * computed**2,
            finished=int(finished),
            finished_output_tokens=int(output),
            context_tokens=int(context),
            backlog_tokens=int(self.backlog_tokens * computed),
            decoding=self.decoding,
            prefill=workers.prefill,
            decode=workers.decode,
        )


def between(
    before: Mapping[str, RouterReading], now: Sequence[RouterReading], seconds: float
) -> Between:
    """Return what came since the readings before; of a router that is new, all.

    Args:
        before: by the routers' ids, at least one.
        now: of all routers that answered.
        seconds: between them.
    """
    parts = [(each, before.get(each.id)) for each in now]
    changes = [_minus(each.sums, old.sums if old else ()) for each, old in parts]
    prefilled = [_minus(each.prefilled, old.prefilled if old else ()) for each, old in parts]
    return Between(
        seconds=seconds,
        sums=tuple(map(sum, zip(*changes, strict=True))) if changes else (0.0,) * len(SUMS),
        backlog=sum(each.backlog for each in now),
        backlog_tokens=sum(each.backlog_tokens for each in now),
        decoding=sum(each.decoding for each in now),
        ttft=_buckets([_minus(each.ttft, old.ttft if old else ()) for each, old in parts]),
        tpot=_buckets([_minus(each.tpot, old.tpot if old else ()) for each, old in parts]),
        prefilled=(sum(each[0] for each in prefilled), sum(each[1] for each in prefilled)),
    )


def quantile_seconds(buckets: Mapping[int, int], share: float) -> float | None:
    """Return the latency that a share of the requests kept, in seconds; None without any.

    Args:
        buckets: counts by bucket.
        share: as 0.95.
    """
    total = sum(buckets.values())
    if not total:
        return None
    reached, wanted = 0, share * total
    for place in sorted(buckets):
        count = buckets[place]
        if count and reached + count >= wanted:
            # Inside of a bucket latencies are taken to be spread evenly on its logarithmic scale.
            inside = max(0.0, wanted - reached) / count
            return float(2.0 ** ((place - 1 + inside) / 2) / 1000)
        reached += count
    return float(math.pow(2.0, max(buckets) / 2) / 1000)


def _minus(now: Sequence[float], before: Sequence[float]) -> tuple[float, ...]:
    if len(before) != len(now):
        return tuple(now)
    return tuple(max(0, a - b) for a, b in zip(now, before, strict=True))


def _buckets(parts: Sequence[Sequence[float]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for part in parts:
        for place, count in enumerate(part):
            if count:
                found[place] = found.get(place, 0) + int(count)
    return found

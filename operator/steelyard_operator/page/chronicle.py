"""From readings to what the page shows, and what has happened since it was opened. Pure."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning.balance.meter import Meter
from steelyard_operator.planning.balance.readings import Between, RouterReading, between
from steelyard_operator.planning.balance.signals import Split

EVENTS_KEPT = 50
RATE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class WorkerFact:
    """One worker, as whoever looks after it sees it."""

    name: str
    role: str
    """prefill, decode, both, or none while it changes."""
    phase: str


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment."""

    seconds: float
    """On a monotonic clock."""
    time: str
    """Of the day, as people read it."""
    workers: Sequence[WorkerFact]
    routers: Sequence[RouterReading] = ()
    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Requests by worker."""
    notes: Sequence[tuple[str, str]] = ()
    """Time and text of decisions that somebody else made, the oldest first."""


class Chronicle:
    """Remembers between looks; each gives the document of the page."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._readings: dict[str, RouterReading] = {}
        self._recent: deque[Between] = deque()
        self._workers: dict[str, WorkerFact] | None = None
        self._events: deque[dict[str, str]] = deque(maxlen=EVENTS_KEPT)
        self._noted: set[tuple[str, str]] = set()
        self._heard_at = 0.0  # on the looks' clock, when a router answered last

    def take(self, service: InferenceService, look: Look) -> dict[str, Any]:
        """Return what the page shows (docs/dashboard.md).

        Args:
            service: as it is asked for now.
            look: at one moment, later than the last one.
        """
        self._measure(look)
        self._tell(look)
        spec, total = service.spec, self._meter.total
        goals, price = spec.objectives, spec.cost
        ttft, tpot = total.latencies(goals.percentile / 100)
        cost = total.cost(float(price.hourly)) if price else None
        last = self._recent[-1] if self._recent else None
        seconds = sum(each.seconds for each in self._recent)
        return {
            "service": service.metadata.name,
            "model": spec.model.name,
            "objectives": {
                "ttftMilliseconds": goals.ttft_milliseconds,
                "tpotMilliseconds": goals.tpot_milliseconds,
                "percentile": goals.percentile,
            },
            "latencies": {
                "ttftMilliseconds": _milliseconds(ttft),
                "tpotMilliseconds": _milliseconds(tpot),
                "windowSeconds": round(total.seconds),
            },
            "cost": price
            and cost
            and {
                "perMillionTokens": None if cost.tokens is None else round(cost.tokens, 4),
                "currency": price.currency,
                "ceiling": price.ceiling_per_million_tokens
                and float(price.ceiling_per_million_tokens),
            },
            "load": {
                "waiting": last.backlog if last else 0,
                "decoding": last.decoding if last else 0,
                "requestsPerSecond": _rate(sum(each.sums[0] for each in self._recent), seconds),
                "outputTokensPerSecond": _rate(sum(each.sums[4] for each in self._recent), seconds),
            },
            "workers": [
                {
                    "name": worker.name,
                    "role": worker.role,
                    "phase": worker.phase,
                    "inFlight": look.in_flight.get(worker.name, 0),
                }
                for worker in look.workers
            ],
            "events": list(self._events),
        }

    def _measure(self, look: Look) -> None:
        if not look.routers:
            return  # What comes meanwhile is in the next answer, and so is its time.
        if self._readings:
            came = between(self._readings, look.routers, look.seconds - self._heard_at)
            roles = [worker.role for worker in look.workers]
            prefill = roles.count("prefill")
            self._meter = self._meter.plus(came, Split(prefill, len(roles) - prefill))
            self._recent.append(came)
            while (
                sum(each.seconds for each in self._recent) - self._recent[0].seconds > RATE_SECONDS
            ):
                self._recent.popleft()
        self._heard_at = look.seconds
        # A router that is silent for a moment is no new one when it answers again.
        self._readings |= {each.id: each for each in look.routers}

    def _tell(self, look: Look) -> None:
        """Note what has changed since the last look, the newest first."""
        now = {worker.name: worker for worker in look.workers}
        for time, text in look.notes:
            if (time, text) not in self._noted:
                self._events.appendleft({"time": time, "text": text})
        self._noted = set(look.notes)
        if self._workers is not None:
            for text in _changes(self._workers, now):
                self._events.appendleft({"time": look.time, "text": text})
        self._workers = now


def _changes(before: Mapping[str, WorkerFact], now: Mapping[str, WorkerFact]) -> list[str]:
    found = []
    for name, worker in now.items():
        old = before.get(name)
        if old is None:
            found.append(f"{name} is there ({worker.role})")
        elif old.role != worker.role:
            found.append(f"{name} changes from {old.role} to {worker.role}")
        elif old.phase != worker.phase:
            found.append(f"{name} is {worker.phase}")
    found += [f"{name} is gone" for name in before if name not in now]
    return found


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 1)


def _rate(amount: float, seconds: float) -> float:
    return round(amount / seconds, 2) if seconds > 0 else 0.0

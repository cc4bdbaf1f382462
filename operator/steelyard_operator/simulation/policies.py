"""Who decides how many workers there are; all see the same signals, one tick old.

`threshold` is what a HorizontalPodAutoscaler does for each role by itself (Kubernetes' documented
algorithm: ceil(now * metric / target), tolerance 10 %, the largest wish of 300 s before going
down). `sla` is Dynamo's planner by its published formulas: a load loop of 5 s beside a throughput
loop of 180 s (docs/design-docs/planner-design.md of ai-dynamo/dynamo).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from steelyard_operator.planning.balance.planner import PlannerState, Settings, decide
from steelyard_operator.planning.balance.signals import Limits, Signals, Split
from steelyard_operator.simulation.profiles import Profile

POLICIES = ("static", "threshold", "sla", "steelyard", "steelyard-noflip")


@dataclass(frozen=True, slots=True)
class View:
    """What a policy sees at a tick."""

    signals: Signals
    ready: Split  # workers that serve


class Policy(Protocol):
    """Decides at each tick."""

    name: str
    flips: bool

    def decide(self, view: View) -> Split | None:
        """Return the wanted split, or None for no change."""
        ...


@dataclass(slots=True)
class Static:
    """Never changes anything."""

    name: str = "static"
    flips: bool = False

    def decide(self, view: View) -> Split | None:
        """See `Policy`."""
        del view
        return None


@dataclass(slots=True)
class Threshold:
    """One autoscaler a role: prefill by its busy time, decode by its sequences."""

    profile: Profile
    max_workers: int
    name: str = "threshold"
    flips: bool = False
    target: float = 0.7
    tolerance: float = 0.1
    sync_ticks: int = 3  # 15 s
    hold_ticks: int = 60  # 300 s
    _ticks: int = 0
    _wishes: list[Split] = field(default_factory=list)
    _contexts: "_Mean" = field(default_factory=lambda: _Mean())  # noqa: PLW0108 - defined below
    _tokens: list[float] = field(default_factory=list)

    def decide(self, view: View) -> Split | None:
        """See `Policy`."""
        signals = view.signals
        self._contexts.add(signals.context_tokens, signals.finished)
        self._tokens.append(signals.input_tokens / signals.seconds)
        self._ticks += 1
        if self._ticks % self.sync_ticks:
            return None
        rate = sum(self._tokens[-self.sync_ticks :]) / self.sync_ticks
        busy = rate / self.profile.capacity.prefill_tokens_per_second
        most = self.profile.capacity.sequences_within(
            self.profile.objectives.tpot_seconds, self._contexts.value(1000.0)
        )
        wish = Split(
            self._wish(signals.prefill, max(view.ready.prefill, 1), busy),
            self._wish(signals.decode, max(view.ready.decode, 1), signals.decoding / most),
        )
        self._wishes.append(wish)
        recent = self._wishes[-(self.hold_ticks // self.sync_ticks) :]
        prefill = max(wish.prefill, min(signals.prefill, max(w.prefill for w in recent)))
        decode = max(wish.decode, min(signals.decode, max(w.decode for w in recent)))
        return _fitted(Split(prefill, decode), self.max_workers)

    def _wish(self, now: int, ready: int, used: float) -> int:
        # Those that start count as unused, so that a rise is not followed twice.
        ratio = used / ready / self.target
        if ratio > 1:
            ratio = max(1.0, used / now / self.target)
            ready = now
        return now if abs(ratio - 1) <= self.tolerance else max(1, math.ceil(ready * ratio))


@dataclass(slots=True)
class Sla:
    """Dynamo's planner: N = ceil(demand / throughput of a worker in the objective), and +-1."""

    profile: Profile
    max_workers: int
    name: str = "sla"
    flips: bool = False
    interval_ticks: int = 36  # 180 s
    sensitivity: float = 0.8  # load_scaling_down_sensitivity
    _ticks: int = 0
    _requests: list[Signals] = field(default_factory=list)
    floor: Split = field(default_factory=lambda: Split(1, 1))

    def decide(self, view: View) -> Split | None:
        """See `Policy`."""
        signals = view.signals
        self._requests.append(signals)
        self._ticks += 1
        if self._ticks % self.interval_ticks == 0:
            self.floor = throughput_split(self._requests[-self.interval_ticks :], self.profile)
        starting = (signals.prefill, signals.decode) != (view.ready.prefill, view.ready.decode)
        if self._ticks % self.interval_ticks == 0:
            load = self._load(view) if not starting else Split(0, 0)
            return _fitted(
                Split(max(self.floor.prefill, load.prefill), max(self.floor.decode, load.decode)),
                self.max_workers,
            )
        if starting:  # Held while a scaling is in progress.
            return None
        load = self._load(view)
        return _fitted(
            Split(max(self.floor.prefill, load.prefill), max(self.floor.decode, load.decode)),
            self.max_workers,
        )

    def _load(self, view: View) -> Split:
        """Up by one where all are beyond the objective, down where the rest would not be."""
        signals, capacity = view.signals, self.profile.capacity
        prefill, decode = signals.prefill, signals.decode
        own = (
            signals.input_tokens / signals.requests / capacity.prefill_tokens_per_second
            if signals.requests
            else 0.0
        )
        wait = signals.backlog_tokens / capacity.prefill_tokens_per_second
        limit = self.profile.objectives.ttft_seconds
        if wait / prefill + own > limit:
            prefill += 1
        elif prefill > 1 and wait / (prefill - 1) < (limit - own) * self.sensitivity:
            prefill -= 1
        context = _context(self._requests[-self.interval_ticks :])
        most = self.profile.objectives.tpot_seconds

        def step(workers: int) -> float:
            each = signals.decoding / workers
            return capacity.step(each, each * context)

        if step(decode) > most:
            decode += 1
        elif decode > 1 and step(decode - 1) < most * self.sensitivity:
            decode -= 1
        return Split(prefill, decode)


def throughput_split(interval: list[Signals], profile: Profile) -> Split:
    """Return the throughput loop's numbers of workers for the next interval.

    demand_rps = requests / interval; N_p = max(ceil(demand_rps / engine_rps_prefill), 1), N_d
    likewise, with the engine's rate in the objectives at mean lengths (predictor `constant`: the
    next interval is as the last one).
    """
    seconds = sum(tick.seconds for tick in interval)
    requests = sum(tick.requests for tick in interval)
    if not requests:
        return Split(1, 1)
    capacity = profile.capacity
    isl = sum(tick.input_tokens for tick in interval) / requests
    finished = sum(tick.finished for tick in interval)
    osl = sum(tick.finished_output_tokens for tick in interval) / finished if finished else isl
    rps = requests / seconds
    prefill_rps = 1 / capacity.prefill(isl)
    context = isl + osl / 2
    most = capacity.sequences_within(profile.objectives.tpot_seconds, context)
    decode_rps = most / capacity.step(most, most * context) / osl
    return Split(max(1, math.ceil(rps / prefill_rps)), max(1, math.ceil(rps / decode_rps)))


class Steelyard:
    """The planner that the operator runs."""

    def __init__(
        self,
        profile: Profile,
        max_workers: int,
        *,
        flips: bool = True,
        on_decision: Callable[[Signals], None] | None = None,
    ) -> None:
        self.name = "steelyard" if flips else "steelyard-noflip"
        self.flips = flips
        self.settings = Settings(profile.objectives, profile.capacity, profile.cold_start_seconds)
        self.limits = Limits(
            max_workers=max_workers, flips=flips, dollars_per_worker_hour=profile.dollars_per_hour
        )
        self.state = PlannerState()
        self._on_decision = on_decision

    def decide(self, view: View) -> Split | None:
        """See `Policy`."""
        self.state, decision = decide(self.state, view.signals, self.limits, self.settings)
        if self._on_decision is not None:
            self._on_decision(view.signals)
        return decision.split


class _Mean:
    """A mean that forgets."""

    def __init__(self) -> None:
        self._sum = self._count = 0.0

    def add(self, total: float, count: float) -> None:
        self._sum = self._sum * 0.98 + total
        self._count = self._count * 0.98 + count

    def value(self, default: float) -> float:
        return self._sum / self._count if self._count else default


def _context(window: list[Signals]) -> float:
    finished = sum(tick.finished for tick in window)
    return sum(tick.context_tokens for tick in window) / finished if finished else 1000.0


def _fitted(split: Split, room: int) -> Split:
    if split.total <= room:
        return split
    prefill = min(max(1, round(room * split.prefill / split.total)), room - 1)
    return replace(split, prefill=prefill, decode=room - prefill)

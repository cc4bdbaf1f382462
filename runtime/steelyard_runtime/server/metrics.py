"""The worker's metrics: what the HTTP process sees, and what the engine process reports.

A collector of its own instead of `prometheus_client`'s counters: every series carries the role of
this moment, which changes in place on a flip, and engine counters are set, not incremented.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from steelyard_runtime.ipc.messages import EngineStats, Ready
from steelyard_runtime.server.metric_names import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    UNKNOWN_HISTOGRAM,
)

Labels = tuple[tuple[str, str], ...]

_KEY = re.compile(r"([^{]+)(?:\{(.*)\})?")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# Field names come from clients: beyond so many different ones they are counted together.
MAX_IGNORED_FIELDS = 64
_FIELD = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(slots=True)
class Histogram:
    """Counts by bucket, not cumulative, and the sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Add one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, values up to it), the last bound being +Inf."""
        buckets: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
        return buckets


class WorkerMetrics(Collector):
    """All series of one worker."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.role = ""
        self.phase = ""
        self.ready: Ready | None = None
        self._counters: dict[str, dict[Labels, float]] = {name: {} for name in COUNTERS}
        self._gauges: dict[str, dict[Labels, float]] = {name: {} for name in GAUGES}
        self._histograms = {name: Histogram(kind.bounds) for name, kind in HISTOGRAMS.items()}
        for name in ("vllm:prompt_tokens", "vllm:generation_tokens", "vllm:num_preemptions"):
            self._counters[name][()] = 0.0
        for reason in ("stop", "length", "abort", "error"):
            self._counters["vllm:request_success"][("finished_reason", reason),] = 0.0
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        series = self._counters.setdefault(name, {})
        key = tuple(labels.items())
        series[key] = series.get(key, 0.0) + amount

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram."""
        histogram = self._histograms.get(name)
        if histogram is None:
            histogram = self._histograms[name] = Histogram(UNKNOWN_HISTOGRAM.bounds)
        histogram.observe(value)

    def histogram(self, name: str) -> Histogram:
        """Return a histogram, for callers that observe often."""
        return self._histograms[name]

    def count_ignored_field(self, name: str) -> None:
        """Count an unknown field of a request."""
        known = self._counters["steelyard:ignored_request_fields"]
        usable = _FIELD.fullmatch(name) is not None
        if not usable or ((("field", name),) not in known and len(known) >= MAX_IGNORED_FIELDS):
            name = "other"
        self.count("steelyard:ignored_request_fields", field=name)

    def take_engine_stats(self, stats: EngineStats) -> None:
        """Replace the engine's gauges and counters, add its observations."""
        self.set_engine_numbers(stats.gauges, stats.counters)
        for name, values in stats.observations.items():
            for value in values:
                self.observe(name, value)

    def set_engine_numbers(
        self, gauges: Mapping[str, float], counters: Mapping[str, float]
    ) -> None:
        """Replace gauges and counters by what the engine counts."""
        for key, value in gauges.items():
            name, labels = _parse_key(key)
            self._gauges.setdefault(name, {})[labels] = value
        for key, value in counters.items():
            name, labels = _parse_key(key)
            self._counters.setdefault(name.removesuffix("_total"), {})[labels] = value

    def render(self) -> bytes:
        """Return all series in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Give every series the role of this moment."""
        common = {"model_name": self.model_name, "engine": "0", "role": self.role}
        yield from self._info(common)
        for name, series in self._gauges.items():
            text = GAUGES.get(name, "An engine gauge.")
            labels = _label_names(common, series)
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for key, value in series.items():
                gauge.add_metric(_label_values(labels, common, key), value)
            yield gauge
        for name, series in self._counters.items():
            text = COUNTERS.get(name, "An engine counter.")
            labels = _label_names(common, series)
            counter = CounterMetricFamily(name, text, labels=labels)
            for key, value in series.items():
                counter.add_metric(_label_values(labels, common, key), value)
            yield counter
        for name, histogram in self._histograms.items():
            text = HISTOGRAMS.get(name, UNKNOWN_HISTOGRAM).help
            family = HistogramMetricFamily(name, text, labels=list(common))
            family.add_metric(list(common.values()), histogram.cumulative(), histogram.total)
            yield family

    def _info(self, common: dict[str, str]) -> Iterator[Metric]:
        fingerprint = self.ready.fingerprint if self.ready else ""
        labels = {**common, "phase": self.phase, "fingerprint": fingerprint}
        worker = GaugeMetricFamily("steelyard:worker_info", "This worker.", labels=list(labels))
        worker.add_metric(list(labels.values()), 1)
        yield worker
        if self.ready is not None:
            labels = {
                **common,
                "block_size": str(self.ready.block_size),
                "num_gpu_blocks": str(self.ready.num_blocks),
                "cache_dtype": self.ready.dtype,
            }
            cache = GaugeMetricFamily(
                "vllm:cache_config_info", "The KV cache.", labels=list(labels)
            )
            cache.add_metric(list(labels.values()), 1)
            yield cache


def _parse_key(key: str) -> tuple[str, Labels]:
    match = _KEY.fullmatch(key)
    if match is None:
        return key, ()
    return match[1], tuple((name, value) for name, value in _LABEL.findall(match[2] or ""))


def _label_names(common: Mapping[str, str], series: Iterable[Labels]) -> list[str]:
    more = {name: None for labels in series for name, _ in labels}
    return [*common, *more]


def _label_values(names: list[str], common: Mapping[str, str], labels: Labels) -> list[str]:
    values = {**common, **dict(labels)}
    return [values.get(name, "") for name in names]

"""Which promises a run under attack has kept. No I/O, no clock."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steelyard_runtime.testing.hostile.attacker import Attempted
from steelyard_runtime.testing.hostile.good_clients import Answer, Gap, Probe
from steelyard_runtime.testing.hostile.memory import HELPERS, Sample
from steelyard_runtime.testing.hostile.stalls import Stall

GAP_SECONDS = 2.0
PROBE_LIMIT_SECONDS = 2.0
PEAK_RATIO = 1.3
# What all helpers of one worker may have together.
HELPERS_BYTES = 1536 * 1024 * 1024
# The last ten minutes of twenty, in two halves; medians, because attacks come and go.
FLAT_SHARE = 0.5
FLAT_RATIO = 1.05
FLAT_SLACK_BYTES = 16 * 1024 * 1024
LONG_SECONDS = 600.0
SUSPECT_SECONDS = 3.0  # an attempt that began within this time before may be what broke a promise
SHOWN = 5  # breaches of one promise; the report has all
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen. Times are CLOCK_MONOTONIC, sizes bytes."""

    began: float
    ended: float
    answers: Sequence[Answer]
    right: Sequence[str]  # by stream
    probes: Sequence[Probe]
    stalls: Sequence[Stall]
    attempts: Mapping[str, Sequence[Attempted]]
    samples: Sequence[Sample]
    changes: Sequence[tuple[float, str]]
    good_peaks: Mapping[str, int]
    peaks: Mapping[str, int]
    cpu_shares: Mapping[str, float] = field(default_factory=dict)  # of all cores, by who used them


@dataclass(frozen=True, slots=True)
class Breach:
    """A promise that was not kept."""

    promise: str
    at_seconds: float  # since the attacks began
    what: str

    def __str__(self) -> str:
        """Return a sentence."""
        return f"{self.promise}: at {self.at_seconds:.1f} s {self.what}"


def breaches(seen: Evidence) -> list[Breach]:
    """Return what broke, in the order of the promises."""
    return [
        Breach(promise, at - seen.began, what)
        for promise, check in PROMISES.items()
        for at, what in check(seen)
    ]


def _no_worker_dies(seen: Evidence) -> Iterator[tuple[float, str]]:
    for at, change in seen.changes:
        yield at, f"{change}{_suspects(seen, at, at)}"


def _no_request_fails(seen: Evidence) -> Iterator[tuple[float, str]]:
    for answer in seen.answers:
        if answer.error:
            at = answer.gap.start if answer.first_event else answer.began
            what = f"stream {answer.stream} failed with {answer.error}"
            yield at, what + _suspects(seen, at, at)
    for stream in range(len(seen.right)):
        if not any(answer.stream == stream for answer in seen.answers):
            yield seen.ended, f"stream {stream} has no answer at all"


def _no_text_changes(seen: Evidence) -> Iterator[tuple[float, str]]:
    for answer in seen.answers:
        right = seen.right[answer.stream]
        if not answer.error and answer.said != right:
            same = next(
                (i for i, (a, b) in enumerate(zip(answer.said, right, strict=False)) if a != b),
                min(len(answer.said), len(right)),
            )
            yield (
                answer.began,
                f"stream {answer.stream} said {answer.said[same : same + 40]!r} instead of "
                f"{right[same : same + 40]!r} after {same} characters",
            )


def excused(gap: Gap, stalls: Sequence[Stall]) -> float:
    """Return how many seconds of a gap the machine itself stood still."""
    return sum(stall.within(gap.start, gap.end) for stall in stalls)


def _no_long_gap(seen: Evidence) -> Iterator[tuple[float, str]]:
    for answer in seen.answers:
        gap, stalled = answer.gap, excused(answer.gap, seen.stalls)
        if gap.seconds - stalled > GAP_SECONDS:
            aside = f", {stalled:.1f} s of them the machine's own stall" if stalled else ""
            what = f"stream {answer.stream} was silent for {gap.seconds:.1f} s{aside}"
            yield gap.start, what + _suspects(seen, gap.start, gap.end)


def _probes_pass(seen: Evidence) -> Iterator[tuple[float, str]]:
    for probe in seen.probes:
        stalled = excused(Gap(0, probe.began, probe.began + probe.seconds), seen.stalls)
        if probe.error or probe.seconds - stalled > PROBE_LIMIT_SECONDS:
            what = f"{probe.name} answered a probe after {probe.seconds:.1f} s"
            if probe.error:
                what = f"a probe of {probe.name} failed after {probe.seconds:.1f} s: {probe.error}"
            yield probe.began, what + _suspects(seen, probe.began, probe.began + probe.seconds)


def _no_server_error(seen: Evidence) -> Iterator[tuple[float, str]]:
    for name, attempts in seen.attempts.items():
        for attempt in attempts:
            # 503 tells of a bound, in words; the others are for what went wrong unforeseen.
            if attempt.outcome.startswith("5") and attempt.outcome != "503":
                yield attempt.at, f"{name} was answered {attempt.outcome}"


def _memory_is_bounded(seen: Evidence) -> Iterator[tuple[float, str]]:
    for name, peak in seen.peaks.items():
        good = seen.good_peaks.get(name, 0)
        limit = HELPERS_BYTES if name.startswith(HELPERS) else PEAK_RATIO * good
        if peak > limit:
            most = max(seen.samples, key=lambda sample: sample.resident_bytes.get(name, 0))
            what = f"{name} had {peak / MIB:.0f} MiB, and {good / MIB:.0f} under good traffic"
            yield most.at, what + _suspects(seen, most.at, most.at)


def halves(seen: Evidence, name: str) -> tuple[float, float]:
    """Return a process' median bytes in the two halves of the run's last part."""
    start = seen.ended - FLAT_SHARE * (seen.ended - seen.began)
    middle = (start + seen.ended) / 2
    parts: tuple[list[int], list[int]] = ([], [])
    for sample in seen.samples:
        if start <= sample.at <= seen.ended and name in sample.resident_bytes:
            parts[sample.at >= middle].append(sample.resident_bytes[name])
    first, second = (statistics.median(part) if part else 0.0 for part in parts)
    return first, second


def _memory_is_flat(seen: Evidence) -> Iterator[tuple[float, str]]:
    for name in seen.peaks:
        first, second = halves(seen, name)
        if seen.ended - seen.began < LONG_SECONDS:
            # In a short run a process may still take what good traffic needed at its most.
            first = max(first, seen.good_peaks.get(name, 0))
        if not name.startswith(HELPERS) and second > FLAT_RATIO * first + FLAT_SLACK_BYTES:
            yield (
                seen.ended,
                f"{name} still grew: {first / MIB:.0f} MiB, then {second / MIB:.0f}",
            )


def _every_attack_ran(seen: Evidence) -> Iterator[tuple[float, str]]:
    for name, attempts in seen.attempts.items():
        if not attempts:
            yield seen.ended, f"{name} made no attempt"


PROMISES = {
    "no worker dies": _no_worker_dies,
    "no good request fails": _no_request_fails,
    "no good text changes": _no_text_changes,
    "no good stream is silent for 2 s": _no_long_gap,
    "probes pass": _probes_pass,
    "no attack makes a server error": _no_server_error,
    "memory is bounded": _memory_is_bounded,
    "memory is flat": _memory_is_flat,
    "every attack was made": _every_attack_ran,
}


def _suspects(seen: Evidence, start: float, end: float) -> str:
    """Return the attempts that began shortly before, as the end of a sentence."""
    near = [
        (abs(attempt.at - start), name, attempt)
        for name, attempts in seen.attempts.items()
        for attempt in attempts
        if start - SUSPECT_SECONDS <= attempt.at <= end and attempt.outcome != "opened"
    ]
    near.sort(key=lambda each: (-each[2].seconds, each[0]))
    told = [
        f"{name} at {attempt.at - seen.began:.1f} s ({attempt.outcome}, {attempt.seconds:.1f} s)"
        for _, name, attempt in near[:SHOWN]
    ]
    return f" (attempts then: {', '.join(told)})" if told else ""


def sentence(broken: Sequence[Breach]) -> str:
    """Return the verdict: a line a breach, the first few of each promise."""
    lines = []
    for promise in PROMISES:
        those = [breach for breach in broken if breach.promise == promise]
        lines += [str(breach) for breach in those[:SHOWN]]
        if len(those) > SHOWN:
            lines.append(f"{promise}: {len(those) - SHOWN} more")
    return "\n".join(lines) or "every promise was kept"


def figures(seen: Evidence) -> dict[str, Any]:
    """Return the report's numbers."""
    minutes = (seen.ended - seen.began) / 60
    waits = [each.first_event - each.began for each in seen.answers if each.first_event]
    gaps = sorted((each.gap for each in seen.answers), key=lambda gap: -gap.seconds)
    return {
        "minutes": round(minutes, 2),
        "streams": {
            "answers": len(seen.answers),
            "failed": sum(bool(each.error) for each in seen.answers),
            "changed": sum(
                not each.error and each.said != seen.right[each.stream] for each in seen.answers
            ),
            "longest_gaps_seconds": [round(gap.seconds, 2) for gap in gaps[:10]],
            "first_event_seconds": _spread(waits),
        },
        "probes": {
            "count": len(seen.probes),
            "failed": sum(bool(each.error) for each in seen.probes),
            "seconds": _spread([each.seconds for each in seen.probes]),
        },
        "machine_stalls": {
            "count": len(seen.stalls),
            "longest_seconds": round(max((each.seconds for each in seen.stalls), default=0), 2),
        },
        "cpu_shares": {who: round(share, 2) for who, share in seen.cpu_shares.items()},
        "attacks": {
            name: _attack(attempts, minutes) for name, attempts in sorted(seen.attempts.items())
        },
        "memory_mib": {
            name: {
                "good_peak": round(seen.good_peaks.get(name, 0) / MIB),
                "peak": round(peak / MIB),
                "last_part_medians": [round(part / MIB) for part in halves(seen, name)],
            }
            for name, peak in sorted(seen.peaks.items())
        },
        "processes_changed": len(seen.changes),
    }


def _attack(attempts: Sequence[Attempted], minutes: float) -> dict[str, Any]:
    outcomes: dict[str, int] = {}
    for attempt in attempts:
        outcomes[attempt.outcome] = outcomes.get(attempt.outcome, 0) + 1
    return {
        "attempts": len(attempts),
        "per_minute": round(len(attempts) / minutes, 1) if minutes else 0,
        "outcomes": dict(sorted(outcomes.items())),
        "longest_seconds": round(max((each.seconds for each in attempts), default=0), 2),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    if not ordered:
        return {}
    return {
        "median": round(statistics.median(ordered), 3),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 3),
        "longest": round(ordered[-1], 3),
    }

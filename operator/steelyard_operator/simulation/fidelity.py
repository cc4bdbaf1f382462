"""How near the simulator comes to recorded runs: fitted on the first, judged by the others.

`python -m steelyard_operator.simulation.fidelity FILE` reads what `make bench-fidelity` recorded.
A worker's capacity is fitted as the operator does it, from the sums of its steps; what a request
takes beside queue, prefill and decode (router, transfer, the client) is one number, the median of
the first run. Each other run's very arrivals are then played in simulated time.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from steelyard_operator.errors import UserError
from steelyard_operator.planning.balance.fit import StepSums, capacity
from steelyard_operator.planning.balance.signals import Objectives, Split
from steelyard_operator.simulation.fleet import Fleet
from steelyard_operator.simulation.outcome import Outcome
from steelyard_operator.simulation.policies import Static
from steelyard_operator.simulation.profiles import Profile
from steelyard_operator.simulation.traces import Request
from steelyard_operator.simulation.workers import Job

STEP_TOKENS = 256  # `--max-num-batched-tokens` of a worker, by default

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Times:
    """Of one request, in seconds."""

    ttft: float
    tpot: float
    end: float  # from the start of the run


@dataclass(slots=True)
class Timed(Outcome):
    """An outcome that keeps each request's times."""

    times: dict[Request, Times] = field(default_factory=dict)

    def add(self, job: Job, now: float) -> None:
        """Count one answered request."""
        super(Timed, self).add(job, now)
        request = job.request
        per_token = (now - job.first_token_at) / max(request.output_tokens - 1, 1)
        self.times[request] = Times(job.first_token_at - request.at, per_token, now)


def measured(run: Record) -> dict[Request, Times]:
    """Return the recorded times by request, in order of arrival."""
    found = {}
    for one in run["requests"]:
        request = Request(one["at"], one["input_tokens"], one["output_tokens"])
        seconds = one["ttft_seconds"] + one["tpot_seconds"] * (request.output_tokens - 1)
        found[request] = Times(one["ttft_seconds"], one["tpot_seconds"], request.at + seconds)
    return found


def predicted(profile: Profile, requests: Sequence[Request]) -> dict[Request, Times]:
    """Return the simulated times of these arrivals on one prefill and one decode worker."""
    fleet = Fleet(
        profile, sorted(requests, key=lambda r: r.at), Static(), start=Split(1, 1), max_workers=2
    )
    fleet.outcome = timed = Timed("recorded", profile.objectives, profile.dollars_per_hour)
    fleet.run()
    return timed.times


def fitted(run: Record) -> Profile:
    """Return the profile that a recorded run says.

    Raises:
        UserError: it has too few steps.
    """
    sums = StepSums()
    for part in run["steps"].values():
        sums = sums.plus(StepSums.read(part["after"]).since(StepSums.read(part["before"])))
    found = capacity(sums)
    if found is None:
        raise UserError("the first run has too few steps for a fit; record for longer")
    bare = Profile(
        name="recorded",
        capacity=replace(found, prefill_step_tokens=STEP_TOKENS),
        transfer_seconds_per_token=0.0,
        transfer_seconds=0.0,
        cold_start_seconds=0.0,
        flip_seconds=0.0,
        drain_seconds=0.0,
        dollars_per_hour=0.0,
        objectives=Objectives(ttft_seconds=1.0, tpot_seconds=0.1),
    )
    seen = measured(run)
    simulated = predicted(bare, list(seen))
    rest = statistics.median(times.ttft - simulated[one].ttft for one, times in seen.items())
    return replace(bare, transfer_seconds=max(0.0, rest))


def figures(times: Mapping[Request, Times]) -> dict[str, float]:
    """Return what a run comes to: medians in milliseconds, and output tokens a second."""
    tokens = sum(request.output_tokens for request in times)
    return {
        "ttft_p50_milliseconds": 1e3 * statistics.median(each.ttft for each in times.values()),
        "ttft_mean_milliseconds": 1e3 * statistics.fmean(each.ttft for each in times.values()),
        "tpot_p50_milliseconds": 1e3 * statistics.median(each.tpot for each in times.values()),
        "output_tokens_per_second": tokens / max(each.end for each in times.values()),
    }


def compare(profile: Profile, runs: Sequence[Record]) -> list[dict[str, Any]]:
    """Return one row a run and figure.

    Args:
        profile: fitted on the first run.
        runs: that one, and others.
    """
    rows = []
    for number, run in enumerate(runs):
        seen = measured(run)
        real, simulated = figures(seen), figures(predicted(profile, list(seen)))
        rows += [
            {
                "rate": run["rate"],
                "fitted": number == 0,
                "figure": name,
                "measured": round(value, 2),
                "predicted": round(simulated[name], 2),
                "error_percent": round(100 * (simulated[name] / value - 1), 1),
            }
            for name, value in real.items()
        ]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the fitted capacity and one line a figure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m steelyard_operator.simulation.fidelity")
    parser.add_argument("file", type=Path, metavar="FILE", help="what `make bench-fidelity` wrote")
    runs = json.loads(parser.parse_args(arguments).file.read_text(encoding="utf-8"))["runs"]
    profile = fitted(runs[0])
    document = {**asdict(profile.capacity), "transfer_seconds": profile.transfer_seconds}
    sys.stdout.write(json.dumps(document) + "\n")
    for row in compare(profile, runs):
        cells = (f"{value}".rjust(10) for value in row.values() if not isinstance(value, str))
        sys.stdout.write(f"{row['figure']:>26}{''.join(cells)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

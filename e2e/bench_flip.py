"""`make bench-flip`: goodput of a service that flips workers, beside the best fixed split.

    python e2e/bench_flip.py [--phase-seconds 180] [--noise-seconds 600] [--keep]

Makes a kind cluster with our images, or uses the one of before with --keep. Nothing else may run on
the machine. Prints a table, writes bench-results/flip.json and the planner's ledger beside it.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness.clusters import own_kind_cluster
from harness.flip_bench import FIXED, FlipBench
from harness.reactions import reactions, ticks
from harness.swing import PROMPTS, Phase
from steelyard_runtime.bench.report import table, write

# The planner's ticks, for `steelyard replay`.
LEDGER = Path("bench-results", "flip-ledger.jsonl")


def main() -> int:
    """Measure and report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python e2e/bench_flip.py")
    parser.add_argument("--phase-seconds", type=float, default=180.0)
    parser.add_argument("--noise-seconds", type=float, default=600.0)
    parser.add_argument("--tick-seconds", type=float, default=20.0)
    parser.add_argument("--keep", action="store_true", help="use and leave the cluster of before")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        own_kind_cluster(Path(folder), keep=options.keep) as cluster,
    ):
        bench = FlipBench(cluster, options.tick_seconds)
        figures["measured_first"] = bench.prepare()
        phases = bench.phases(options.phase_seconds)
        figures |= {
            "objectives_seconds": [bench.goals.ttft_seconds, bench.goals.tpot_seconds],
            "requests_per_second": bench.rates,
            "tick_seconds": options.tick_seconds,
            "phase_seconds": options.phase_seconds,
        }
        _say(figures)
        runs = figures["runs"] = {}
        bench.split(2, 1)
        bench.balance()
        runs["steelyard"] = ours = bench.play(phases)
        ours["reactions"] = reactions(ours["flips"], ticks(bench.ledger()), ours["began"], phases)
        _say({"steelyard": ours})
        if options.noise_seconds:
            noise = Phase(PROMPTS, options.noise_seconds, bench.rates[PROMPTS.name])
            figures["noise"] = bench.play([noise])
            _say({"noise": figures["noise"]})
        LEDGER.parent.mkdir(exist_ok=True)
        LEDGER.write_text("".join(f"{line}\n" for line in bench.ledger()))
        for name, split in FIXED.items():
            bench.split(*split)
            runs[name] = bench.play(phases)
            _say({name: runs[name]})
    best = max(runs[name]["goodput_requests_per_second"] for name in ("fixed 2+1", "fixed 1+2"))
    figures["goodput_over_best_fixed"] = ours["goodput_requests_per_second"] / best
    columns = ("requests", "failed", "good", "goodput_requests_per_second")
    print(table([{"run": name, **{c: run[c] for c in columns}} for name, run in runs.items()]))
    print(f"goodput over the best fixed split's: {figures['goodput_over_best_fixed']:.2f}")
    print(write("flip", figures))
    return 0


def _say(found: dict[str, Any]) -> None:
    sys.stderr.write(f"{found}\n")


if __name__ == "__main__":
    sys.exit(main())

"""`steelyard simulate` and `steelyard replay`."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from steelyard_operator.errors import UserError
from steelyard_operator.planning.balance.ledger import replay
from steelyard_operator.planning.balance.signals import Split
from steelyard_operator.simulation.fleet import Fleet
from steelyard_operator.simulation.outcome import Outcome
from steelyard_operator.simulation.plot import check, plot
from steelyard_operator.simulation.policies import (
    POLICIES,
    Policy,
    Sla,
    Steelyard,
    Threshold,
)
from steelyard_operator.simulation.profiles import PROFILES, Profile, profile
from steelyard_operator.simulation.search import Tried, best_static
from steelyard_operator.simulation.traces import Request, read_trace, scaled

COLUMNS = (
    "policy",
    "attainment",
    "goodput_rps",
    "accelerator_hours",
    "cost_per_million_tokens",
    "moves",
    "seconds",
)


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add both sub-commands."""
    simulate = add(
        "simulate",
        help="play a trace of requests against ways to size a service",
        description="Play a trace against ways to size a service, in simulated time.",
        allow_abbrev=False,
    )
    simulate.add_argument("--trace", type=Path, required=True, metavar="FILE")
    simulate.add_argument(
        "--trace-scale", type=_scale, default=1.0, metavar="X", help="how many times the arrivals"
    )
    for name, what in (
        ("ttft", "the time to the first token"),
        ("tpot", "that of each further one"),
    ):
        simulate.add_argument(
            f"--{name}-milliseconds",
            type=_milliseconds,
            metavar="MS",
            help=f"the objective for {what}; the profile's by default",
        )
    simulate.add_argument("--profile", required=True, help=", ".join(sorted(PROFILES)))
    simulate.add_argument(
        "--policy", type=_policies, default=list(POLICIES), metavar="NAME[,NAME|all]"
    )
    simulate.add_argument("--max-workers", type=_count, default=64, metavar="N")
    simulate.add_argument(
        "--start",
        type=_split,
        metavar="PREFILL+DECODE",
        help="workers at the start, and what `static` keeps; default: the best fixed split",
    )
    simulate.add_argument(
        "--json", action="store_true", help="print a list with one object a policy"
    )
    simulate.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw the load and each policy's workers (needs matplotlib)",
    )
    again = add(
        "replay",
        help="make the decisions of a ledger again",
        description="Make the planner's decisions again from a ledger's inputs alone, and compare.",
        allow_abbrev=False,
    )
    again.add_argument("file", type=Path, metavar="FILE")
    again.add_argument(
        "--arrivals", type=_scale, default=1.0, metavar="X", help="as if so many times as much came"
    )


def run(given: argparse.Namespace) -> int:
    """Run one of the two; returns the exit code."""
    return _replay(given) if given.command == "replay" else _simulate(given)


def _simulate(given: argparse.Namespace) -> int:
    if given.plot is not None:
        check(given.plot)
    chosen = _with_objectives(profile(given.profile), given)
    requests = scaled(read_trace(given.trace), given.trace_scale)
    if not requests:
        raise UserError(f"--trace-scale {given.trace_scale:g} leaves no request of the trace")
    start, outcomes = given.start, []
    if start is None:
        _say(f"{len(requests)} requests; looking for the best fixed split")
        best, tried = best_static(chosen, requests, given.max_workers)
        for found in tried:
            _say(_grid_line(found, chosen, len(requests)))
        if best is None or best.split is None:
            raise UserError(
                f"no fixed split of at most {given.max_workers} workers keeps "
                f"{chosen.objectives.percentile:.0%} of the requests inside the objectives; "
                "raise --max-workers or lower --trace-scale"
            )
        start = best.split
        if "static" in given.policy:
            outcomes.append(best.outcome)
    elif "static" in given.policy:
        outcomes.append(_run("static", chosen, requests, start, given.max_workers))
    outcomes += [
        _run(name, chosen, requests, start, given.max_workers)
        for name in given.policy
        if name != "static"
    ]
    if given.plot is not None:
        plot(given.plot, requests, outcomes)
    documents = [outcome.document() for outcome in outcomes]
    if given.json:
        sys.stdout.write(json.dumps(documents, indent=2) + "\n")
        return 0
    rows = [list(COLUMNS)] + [[str(row[name]) for name in COLUMNS] for row in documents]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells) + "\n")
    return 0


def policy_of(name: str, chosen: Profile, max_workers: int) -> Policy:
    """Return a policy by its name; `static` is none of these."""
    if name == "threshold":
        return Threshold(chosen, max_workers)
    if name == "sla":
        return Sla(chosen, max_workers)
    return Steelyard(chosen, max_workers, flips=name == "steelyard")


def _run(
    name: str, chosen: Profile, requests: list[Request], start: Split, max_workers: int
) -> Outcome:
    from steelyard_operator.simulation.policies import Static

    policy = Static() if name == "static" else policy_of(name, chosen, max_workers)
    fleet = Fleet(chosen, requests, policy, start=start, max_workers=max_workers)
    outcome = fleet.run(lambda share: _say(f"{name}: {share:.0%}", end="\r"))
    _say(f"{name}: done ")
    return outcome


def _grid_line(found: Tried, chosen: Profile, total: int) -> str:
    played = found.outcome.requests
    result = (
        f"attainment {found.outcome.attainment:.4f}"
        if played == total
        else f"below {chosen.objectives.percentile:.0%} after {played} requests"
    )
    return f"  {found.label:>8}: {result}"


def _replay(given: argparse.Namespace) -> int:
    try:
        lines = given.file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{given.file}: {error.strerror}") from None
    different = count = 0
    for again in replay(lines, arrivals=given.arrivals):
        count += 1
        split = again.decision.split
        about = f"{again.time} {again.service} ".lstrip()
        sys.stdout.write(f"{count} {about}{split.prefill}+{split.decode} {again.decision.reason}\n")
        if again.recorded is not None:
            recorded = again.recorded["split"]
            different += (recorded["prefill"], recorded["decode"]) != (
                split.prefill,
                split.decode,
            )
    if not count:
        raise UserError(f"{given.file} has no tick of a ledger")
    sys.stderr.write(f"{count} decisions, {different} differ from what was recorded\n")
    return 1 if different else 0


def _say(text: str, end: str = "\n") -> None:
    sys.stderr.write(text + end)
    sys.stderr.flush()


def _with_objectives(chosen: Profile, given: argparse.Namespace) -> Profile:
    goals = chosen.objectives
    ttft, tpot = given.ttft_milliseconds, given.tpot_milliseconds
    return replace(
        chosen,
        objectives=replace(
            goals,
            ttft_seconds=ttft / 1000 if ttft else goals.ttft_seconds,
            tpot_seconds=tpot / 1000 if tpot else goals.tpot_seconds,
        ),
    )


def _milliseconds(text: str) -> float:
    return _up_to(3_600_000, text)


def _scale(text: str) -> float:
    return _up_to(1000, text)


def _up_to(most: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and up to {most}, got '{text}'")
    return value


def _count(text: str) -> int:
    if not text.isdigit() or not 2 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"must be an integer from 2 to 10000, got '{text}'")
    return int(text)


def _split(text: str) -> Split:
    parts = text.split("+")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"must be two numbers above 0 such as 3+1, got '{text}'")
    return Split(int(parts[0]), int(parts[1]))


def _policies(text: str) -> list[str]:
    names = list(POLICIES) if text == "all" else text.split(",")
    for name in names:
        if name not in POLICIES:
            allowed = ", ".join(POLICIES)
            raise argparse.ArgumentTypeError(f"must be of: {allowed}, or all; got '{name}'")
    return names

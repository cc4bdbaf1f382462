"""A trace that swings: parts of two traces by turns.

A service whose users write by day and whose batches read documents by night has such traffic.
"""

import argparse
import csv
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from steelyard_operator.errors import UserError
from steelyard_operator.simulation.traces import Request, read_trace, scaled

READS = 8  # times as long as its answer is a prompt at least, where a request reads


def splice(
    first: Sequence[Request],
    second: Sequence[Request],
    part_seconds: float,
    parts: int,
    *,
    fade_seconds: float = 0.0,
    seed: int = 0,
) -> list[Request]:
    """Return parts of two traces by turns; each trace goes on where its last part ended.

    Args:
        first: the trace of parts 0, 2, …, in order of arrival.
        second: the trace of the parts between.
        part_seconds: how long each part is.
        parts: how many.
        fade_seconds: around each turn, the share of one trace falls as that of the other grows;
            at most `part_seconds`.
        seed: of what is left out while a trace fades.

    Raises:
        UserError: a trace is too short.
    """
    draw = random.Random(seed)  # noqa: S311 - a trace, no secret
    made = []
    half, end = fade_seconds / 2, parts * part_seconds
    for part in range(parts):
        source, turn = (first, second)[part % 2], part // 2
        # The second trace fades in before its first part, and has nothing before its own begin.
        begin = turn * part_seconds + part % 2 * half
        if source[-1].at < begin + part_seconds * 0.9:
            raise UserError(
                f"a trace of {source[-1].at:.0f} s is too short for {turn + 1} parts of "
                f"{part_seconds:.0f} s"
            )
        for each in source:
            since = each.at - begin  # of this part's beginning
            at = since + part * part_seconds
            if not (-half <= since < part_seconds + half and 0 <= at < end):
                continue
            share = min(
                1.0 if part == 0 else _risen(since + half, fade_seconds),
                1.0 if part == parts - 1 else _risen(part_seconds + half - since, fade_seconds),
            )
            if share >= 1.0 or draw.random() < share:
                made.append(Request(at, each.input_tokens, each.output_tokens))
    made.sort(key=lambda each: each.at)
    return made


def _risen(seconds: float, fade_seconds: float) -> float:
    return 1.0 if seconds >= fade_seconds else seconds / fade_seconds


def write(requests: Sequence[Request], file: TextIO) -> None:
    """Write a trace in the form of Azure's."""
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(("TIMESTAMP", "ContextTokens", "GeneratedTokens"))
    for each in requests:
        at = datetime.fromtimestamp(each.at, UTC).replace(tzinfo=None)
        rows.writerow(
            (at.isoformat(" ", timespec="microseconds"), each.input_tokens, each.output_tokens)
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a splice to standard output; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m steelyard_operator.simulation.splice")
    parser.add_argument("first", type=Path, help="a trace")
    parser.add_argument("second", type=Path, help="another one")
    parser.add_argument("--first-scale", type=float, default=1.0, help="times its arrivals")
    parser.add_argument(
        "--first-writes",
        action="store_true",
        help="of it only requests whose answers are at least as long as their prompts",
    )
    parser.add_argument("--second-scale", type=float, default=1.0, help="times its arrivals")
    parser.add_argument(
        "--second-reads",
        action="store_true",
        help=f"of it only requests whose prompts are at least {READS} times their answers",
    )
    parser.add_argument("--minutes", type=float, default=4.0, help="of each part")
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--fade-minutes", type=float, default=0.0, help="around each turn")
    given = parser.parse_args(arguments)
    try:
        first = read_trace(given.first)
        if given.first_writes:
            first = [each for each in first if each.output_tokens >= each.input_tokens]
        second = read_trace(given.second)
        if given.second_reads:
            second = [each for each in second if each.input_tokens >= READS * each.output_tokens]
        made = splice(
            scaled(first, given.first_scale),
            scaled(second, given.second_scale),
            given.minutes * 60,
            given.parts,
            fade_seconds=given.fade_minutes * 60,
        )
    except UserError as error:
        sys.stderr.write(f"splice: {error}\n")
        return 2
    write(made, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

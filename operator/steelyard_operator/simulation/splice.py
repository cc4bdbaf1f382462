"""A trace that swings: parts of two traces by turns.

A service whose users chat by day and whose batches read documents by night has such traffic.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from steelyard_operator.errors import UserError
from steelyard_operator.simulation.traces import Request, read_trace, scaled


def splice(
    first: Sequence[Request], second: Sequence[Request], part_seconds: float, parts: int
) -> list[Request]:
    """Return parts of two traces by turns; each trace goes on where its last part ended.

    Args:
        first: the trace of parts 0, 2, …, in order of arrival.
        second: the trace of the parts between.
        part_seconds: how long each part is.
        parts: how many.

    Raises:
        UserError: a trace is too short.
    """
    made = []
    for part in range(parts):
        source, turn = (first, second)[part % 2], part // 2
        begin = turn * part_seconds
        if source[-1].at < begin + part_seconds * 0.9:
            raise UserError(
                f"a trace of {source[-1].at:.0f} s is too short for {turn + 1} parts of "
                f"{part_seconds:.0f} s"
            )
        made += [
            Request(each.at - begin + part * part_seconds, each.input_tokens, each.output_tokens)
            for each in source
            if begin <= each.at < begin + part_seconds
        ]
    return made


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
    parser.add_argument("--second-scale", type=float, default=1.0, help="times its arrivals")
    parser.add_argument("--minutes", type=float, default=4.0, help="of each part")
    parser.add_argument("--parts", type=int, default=8)
    given = parser.parse_args(arguments)
    try:
        second = scaled(read_trace(given.second), given.second_scale)
        made = splice(read_trace(given.first), second, given.minutes * 60, given.parts)
    except UserError as error:
        sys.stderr.write(f"splice: {error}\n")
        return 2
    write(made, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What counts as a failed request, and what is reported of a scenario. Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LONGEST_GAP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One scenario in numbers."""

    scenario: str
    requests: int
    failures: int
    longest_gap_seconds: float
    replays: int | None
    """Streams that went on from another worker; None where nothing was compared."""
    seconds: float
    result: str = "passed"


def parse(log: str) -> list[dict[str, Any]]:
    """Return the records of a driver's log; a line that was cut off is none."""
    records = []
    for line in log.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "longest_gap_seconds" in record:
            records.append(record)
    return records


def complaints(
    records: Sequence[dict[str, Any]], *, at_least: int, replays: int | None, replays_allowed: bool
) -> list[str]:
    """Return what is wrong with the requests of a scenario, one sentence each."""
    found = [f"request {record['number']}: {record['error']}" for record in failed(records)]
    if len(records) < at_least:
        found.append(f"only {len(records)} requests were made, {at_least} streams must be open")
    found += [
        f"request {record['number']} was silent for {record['longest_gap_seconds']:.1f} s"
        for record in records
        if record["longest_gap_seconds"] > LONGEST_GAP_SECONDS
    ]
    if replays and not replays_allowed:
        found.append(
            f"{replays} streams were cut and went on from another worker, though nothing was killed"
        )
    return found


def failed(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the requests that a client would call failed."""
    return [record for record in records if record["error"]]


def longest_gap(records: Iterable[dict[str, Any]]) -> float:
    """Return the longest silence of any request."""
    return max((float(record["longest_gap_seconds"]) for record in records), default=0.0)


def report(verdicts: Sequence[Verdict]) -> str:
    """Return the list that a run prints."""
    lines = ",\n".join(" " + json.dumps(asdict(verdict)) for verdict in verdicts)
    return f"[\n{lines}\n]"

"""Recorded arrivals, in the two formats that public traces come in."""

import csv
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from steelyard_operator.errors import UserError

SHIFT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace."""

    at: float  # seconds from the first one
    input_tokens: int
    output_tokens: int


def read_trace(path: Path) -> list[Request]:
    """Return the requests of a trace in order of arrival.

    Args:
        path: CSV with TIMESTAMP, ContextTokens, GeneratedTokens (Azure's), or lines of JSON with
            timestamp (milliseconds), input_length, output_length (Mooncake's).

    Raises:
        UserError: the file cannot be read, or is neither.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = list(_azure(file) if first.startswith("TIMESTAMP") else _mooncake(file))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no trace: it must be CSV with TIMESTAMP, ContextTokens and "
            "GeneratedTokens, or lines of JSON with timestamp, input_length and output_length "
            f"({error})"
        ) from None
    if not rows:
        raise UserError(f"{path} holds no request")
    rows.sort(key=lambda request: request.at)
    start = rows[0].at
    return [Request(r.at - start, r.input_tokens, r.output_tokens) for r in rows]


def scaled(requests: list[Request], scale: float, seed: int = 0) -> list[Request]:
    """Return `scale` copies of each request, each but the first shifted by up to a minute.

    Args:
        requests: in order of arrival.
        scale: how many; of a fraction, that share of the requests gets one more.
        seed: of the shifts.
    """
    draw = random.Random(seed)  # noqa: S311 - a trace, no secret
    whole, rest = int(scale), scale - int(scale)
    end = requests[-1].at
    result = []
    for request in requests:
        copies = whole + (draw.random() < rest)
        for copy in range(copies):
            shift = draw.uniform(-SHIFT_SECONDS, SHIFT_SECONDS) if copy else 0.0
            # What would come before the trace or after it is mirrored: all of it in the first and
            # the last moment would be a burst that nobody has recorded.
            at = abs(request.at + shift)
            at = end - abs(end - at)
            result.append(Request(max(at, 0.0), request.input_tokens, request.output_tokens))
    result.sort(key=lambda request: request.at)
    return result


def _azure(file: Iterable[str]) -> Iterator[Request]:
    for row in csv.DictReader(file):
        # Seven digits of a second, where Python reads six.
        at = datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp()
        yield _checked(at, int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _mooncake(file: Iterable[str]) -> Iterator[Request]:
    for text in file:
        if text.strip():
            row = json.loads(text)
            yield _checked(
                float(row["timestamp"]) / 1000, int(row["input_length"]), int(row["output_length"])
            )


def _checked(at: float, input_tokens: int, output_tokens: int) -> Request:
    if input_tokens < 1 or output_tokens < 1:
        raise ValueError(f"a request has {input_tokens} and {output_tokens} tokens")
    return Request(at, input_tokens, output_tokens)

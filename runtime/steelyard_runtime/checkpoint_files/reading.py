"""Small files of a checkpoint: plain ones, of a bounded size, and JSON that may be damaged."""

import json
import stat
from pathlib import Path
from typing import Any

from steelyard_runtime.errors import CheckpointError

MEBIBYTE = 1024 * 1024
SMALL_BYTES = 64 * MEBIBYTE  # configurations, templates and tables of weight files
TOKENIZER_BYTES = 256 * MEBIBYTE  # the largest public one has 33 MiB
SHOWN_CHARACTERS = 100


def read_small(path: Path, limit_bytes: int = SMALL_BYTES) -> bytes:
    """Return what a file holds.

    Raises:
        CheckpointError: it cannot be read, is larger, or is no plain file (a device has no end).
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path} must be a plain file")
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > limit_bytes:
        raise CheckpointError(f"{path} must have at most {limit_bytes // MEBIBYTE} MiB")
    return content


def read_text(path: Path, limit_bytes: int = SMALL_BYTES) -> str:
    """Return a file's text.

    Raises:
        CheckpointError: as `read_small`, or it is not UTF-8.
    """
    try:
        return read_small(path, limit_bytes).decode()
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: must be UTF-8") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Raises:
        CheckpointError: the file cannot be read or is not a JSON object.
    """
    content = parse_json(path, read_small(path))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content


def parse_json(path: Path, text: bytes, what: str = "") -> Any:
    """Return what JSON says; `what` names the part of the file, if it is not all of it.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise CheckpointError(f"{path}{what} is not valid JSON: it is nested too deep") from None
    except ValueError as error:
        raise CheckpointError(f"{path}{what} is not valid JSON: {shown(str(error))}") from None


def shown(value: Any) -> str:
    """Return a value of a checkpoint for a sentence: cut short, and on one line."""
    text = value if isinstance(value, str) else repr(value)
    cut = text[:SHOWN_CHARACTERS]
    printable = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in cut)
    return printable + ("…" if len(text) > SHOWN_CHARACTERS else "")

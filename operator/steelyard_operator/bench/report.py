"""Where the figures came from, the table and the JSON file."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steelyard_operator.bench.options import TARGETS

PACKAGES = ("kopf", "kubernetes", "aiohttp", "orjson", "pydantic")
PROGRAMS = ("etcd", "kube-apiserver", "kwok")


def provenance(programs: Path) -> dict[str, Any]:
    """Return revision, machine and versions; `programs` is the folder of the control plane's."""
    versions = {"python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in PACKAGES}
    for name in PROGRAMS:
        said = re.search(r"\d+\.\d+\.\d+", _said(str(programs / name), "--version"))
        versions[name] = said[0] if said else "unknown"
    described = _said("git", "describe", "--always", "--dirty", "--abbrev=12")
    cores = len(os.sched_getaffinity(0))
    return {
        "revision": os.environ.get("STEELYARD_REVISION") or described or "unknown",
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpu": _cpu(), "cores": cores, "kernel": platform.release()},
        "versions": versions,
    }


def judged(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each target beside its figure; one that was not measured is not met."""
    found = {}
    for name, below in TARGETS.items():
        figure = figures.get(name)
        # What never came has no figure.
        met = figure is not None and figure < below
        found[name] = {"figure": figure, "below": below, "met": met}
    return found


def table(targets: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Any]) -> str:
    """Return the targets, and below them the other figures, as text."""
    rows = [("figure", "measured", "below", "met")]
    rows += [
        (name, _cell(each["figure"]), _cell(each["below"]), "yes" if each["met"] else "NO")
        for name, each in targets.items()
    ]
    others = {name: value for name, value in figures.items() if name not in targets}
    counts = {name: value for name, value in others.items() if isinstance(value, Mapping)}
    rows += [(name, _cell(value), "", "") for name, value in others.items() if name not in counts]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{name:<{widths[0]}}  {figure:>{widths[1]}}  {below:>{widths[2]}}  {met}".rstrip()
        for name, figure, below, met in rows
    ]
    for name, each in counts.items():
        lines.append(f"{name}: {', '.join(f'{count} {what}' for what, count in each.items())}")
    return "\n".join(lines)


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write the JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:.0f}"


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()

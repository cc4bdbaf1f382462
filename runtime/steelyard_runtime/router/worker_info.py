"""What a worker says of itself: the `steelyard:worker_info` line of its metrics page. Pure."""

import re
from dataclasses import dataclass

_LINE = re.compile(r"^steelyard:worker_info\{([^}]*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

_MOST_CHARACTERS = 2048
_ROLES = ("prefill", "decode", "both")


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """The labels of `steelyard:worker_info`; None where one is absent or empty."""

    role: str | None
    phase: str | None
    fingerprint: str | None


def parse_worker_info(page: str) -> WorkerInfo | None:
    """Find the line in a metrics page; None where the worker has none (say vLLM)."""
    found = _LINE.search(page)
    if found is None:
        return None
    labels = dict(_LABEL.findall(found.group(1)[:_MOST_CHARACTERS]))
    role = labels.get("role")
    return WorkerInfo(
        role if role in _ROLES else None,
        labels.get("phase") or None,
        labels.get("fingerprint") or None,
    )

"""What the operator asked of the API server, from the API server's own log."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

SERVICE = re.compile(r"svc-\d+")


class AuditLog:
    """The log as far as it was read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_to = 0

    def since_last(self) -> Iterator[dict[str, Any]]:
        """Yield what was written since the last call."""
        with self._path.open("rb") as log:
            log.seek(self._read_to)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                event: dict[str, Any] = json.loads(line)
                # A watch is told twice: when it begins, and when it ends.
                if event["stage"] == "ResponseComplete" and event["verb"] == "watch":
                    continue
                yield event


def counted(events: Iterable[dict[str, Any]]) -> Counter[str]:
    """Return how many requests there were, by verb and resource."""
    return Counter(_what(event) for event in events)


def about_idle(
    events: Iterable[dict[str, Any]], is_busy: Callable[[str], bool]
) -> tuple[Counter[str], Counter[str]]:
    """Return the requests about idle services, and those about none: lists, watches, the Lease.

    Args:
        events: of the log.
        is_busy: tells it from a service's name, which begins the names of all its objects.
    """
    named: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for event in events:
        found = SERVICE.match((event.get("objectRef") or {}).get("name", ""))
        if found is None:
            shared[_what(event)] += 1
        elif not is_busy(found[0]):
            named[_what(event)] += 1
    return named, shared


def _what(event: dict[str, Any]) -> str:
    target = event.get("objectRef") or {}
    parts = (target.get("resource", ""), target.get("subresource", ""))
    return f"{event['verb']} {'/'.join(part for part in parts if part)}"

"""When each worker had which role, from a watch of its labels."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.kubectl import Kubectl
from harness.service import PREFIX

ROLES = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class Change:
    """A worker's role from a moment on; empty while it has none."""

    at: float  # seconds of the Unix epoch
    pod: str
    role: str


@dataclass(slots=True)
class Labels:
    """All changes that were seen, in their order."""

    changes: list[Change] = field(default_factory=list)
    _now: dict[str, str] = field(default_factory=dict)

    def take(self, pod: dict[str, Any], at: float) -> None:
        """Note a pod as it is now."""
        name, labels = pod["metadata"]["name"], pod["metadata"].get("labels", {})
        role = "+".join(role for role in ROLES if f"{PREFIX}{role}" in labels)
        if self._now.get(name) != role:
            self._now[name] = role
            self.changes.append(Change(at, name, role))

    def flips(self) -> list[dict[str, Any]]:
        """Return each flip: the pod, from and to, when its label went, and for how long."""
        found: list[dict[str, Any]] = []
        before: dict[str, str] = {}
        since: dict[str, float] = {}
        for change in self.changes:
            if not change.role:
                since[change.pod] = change.at
                continue
            old = before.get(change.pod, change.role)
            if change.pod in since and old != change.role:
                began = since.pop(change.pod)
                found.append(
                    {
                        "pod": change.pod,
                        "from": old,
                        "to": change.role,
                        "began": round(began, 2),
                        "seconds": round(change.at - began, 2),
                    }
                )
            before[change.pod] = change.role
        return found


@contextmanager
def watched(kubectl: Kubectl, selector: str) -> Iterator[Labels]:
    """Watch pods while the block runs."""
    found = Labels()
    with kubectl.running(
        *("get", "pods", "--selector", selector, "--watch", "--output", "json")
    ) as output:
        reader = threading.Thread(target=_read, args=(output, found), daemon=True)
        reader.start()
        yield found
    reader.join(10)


def _read(output: Any, found: Labels) -> None:
    for document in documents(output):
        found.take(document, time.time())


def documents(lines: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of a stream of indented JSON, which ends each with a bare brace."""
    part: list[str] = []
    for line in lines:
        part.append(line)
        if line.rstrip() == "}":
            yield json.loads("".join(part))
            part = []

"""The membership file: which workers the router may use (docs/contract.md, section 5)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Member:
    """One worker, as its admin port describes it."""

    id: str
    url: str
    role: str
    phase: str
    fingerprint: str


class MembershipFile:
    """Writes the file by atomic rename, and only when something changed."""

    def __init__(self, path: Path) -> None:
        """Write an empty list, so that the router finds a file when it starts."""
        self.path = path
        self._written: str | None = None
        self.write(())

    def write(self, members: Sequence[Member]) -> None:
        """Make the file list these workers."""
        text = render(members)
        if text == self._written:
            return
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(text, encoding="utf-8")
        new.replace(self.path)
        self._written = text


def render(members: Sequence[Member]) -> str:
    """Return the content of the file, the workers in the order of their ids."""
    workers = [
        {
            "id": member.id,
            "url": member.url,
            "role": member.role,
            "phase": member.phase,
            **({"fingerprint": member.fingerprint} if member.fingerprint else {}),
        }
        for member in sorted(members, key=lambda member: member.id)
    ]
    return json.dumps({"version": 1, "workers": workers}, indent=2) + "\n"

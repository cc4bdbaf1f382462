"""The start role from a file: a bare role, or the labels of a downward-API volume.

A container that dies right after a flip restarts in the role of its labels, with no operator.
"""

import re
from pathlib import Path

from steelyard_runtime.core.roles import Role
from steelyard_runtime.errors import ConfigError

_LABEL = re.compile(r'^steelyard\.dev/(prefill|decode)="true"$', re.MULTILINE)


def read_role_file(text: str, path: Path) -> str | None:
    """Return the role, or None where the labels name none (a pod that was draining).

    Raises:
        ConfigError: the file holds neither a role nor labels.
    """
    bare = text.strip()
    if bare in set(Role):
        return bare
    lines = [line for line in text.splitlines() if line.strip()]
    if not all("=" in line for line in lines):
        first = lines[0][:60]
        raise ConfigError(
            f"--role-file: '{path}' must hold prefill, decode or both, or pod labels, got '{first}'"
        )
    labels = set(_LABEL.findall(text))
    if labels == {"prefill", "decode"}:
        return Role.BOTH
    return next(iter(labels), None)

"""What this machine offers: cores, and where the runtime's command is installed."""

import os
import shutil
import sys
from pathlib import Path

from steelyard_operator.errors import UserError

CGROUP_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def available_cores(limit_file: Path = CGROUP_CPU_LIMIT) -> int:
    """Return the cores that this process may use: its affinity, and its container's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = limit_file.read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # No such file, or no limit ("max").
        return cores


def find_executable(name: str, beside: Path | None = None) -> str:
    """Return the path of a command: of this environment first, then of PATH.

    Raises:
        UserError: it is installed in neither.
    """
    folder = Path(sys.executable).parent if beside is None else beside
    found = shutil.which(name, path=str(folder)) or shutil.which(name)
    if found is None:
        raise UserError(
            f"'{name}' is not installed beside steelyard ({folder}) nor on PATH; "
            "install steelyard with its extra 'runtime'"
        )
    return found

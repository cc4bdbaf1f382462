"""Who used the machine's cores: a run beside other work says little about gaps."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
IDLE = (3, 4)  # columns of /proc/stat: idle, and idle that waits for a disk
GUEST = 8  # from here on, what other columns have counted already


def busy_seconds() -> float:
    """Return the CPU time that everything has used since the machine started."""
    columns = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:][:GUEST]
    return sum(int(ticks) for i, ticks in enumerate(columns) if i not in IDLE) / TICKS


def used_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that these processes, and children that have ended, have used."""
    used = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += sum(map(int, stat[11:15]))
    return used / TICKS

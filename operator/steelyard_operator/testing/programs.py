"""Programs that run for the time of a block, and what the system says of them."""

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the time of the block, and end it by its own id.

    Args:
        command: the program and its arguments.
        log: takes what it writes to standard error; what it prints goes into a file beside it.
        environment: on top of this process'.
    """
    # What one writes into its home belongs to the run.
    given = {**os.environ, "HOME": str(log.parent), **(environment or {})}
    with (
        log.open("wb") as said,
        log.with_suffix(".out").open("wb") as printed,
        subprocess.Popen(command, stdout=printed, stderr=said, env=given) as child,
    ):
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listened on a moment ago."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def memory_mb(pid: int) -> tuple[float, float]:
    """Return a process' resident memory, now and at its highest, in MB of a million bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return int(found["VmRSS"]) * 1024 / 1e6, int(found["VmHWM"]) * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """Return how long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

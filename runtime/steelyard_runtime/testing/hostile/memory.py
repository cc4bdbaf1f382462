"""The processes of a service under `steelyard up`, and how much memory each has."""

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PAUSE_SECONDS = 0.25
HELPERS = "helpers of "  # processes that a worker starts and ends as it needs them


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident bytes by process at one time (CLOCK_MONOTONIC)."""

    at: float
    resident_bytes: dict[str, int]


def processes(root: int) -> dict[str, list[int]]:
    """Return the process ids under `root` (a `steelyard up`) by what they are."""
    found: dict[str, list[int]] = {"up": [root]}
    for child in _children(root):
        words = _command(child)
        if "router" in words:
            found.setdefault("router", []).append(child)
        elif "serve" in words:
            role = words[words.index("--role") + 1] if "--role" in words else "both"
            found.setdefault(f"{role} server", []).append(child)
            for engine in _children(child):
                # What is neither is a helper, and so is whatever an engine starts.
                is_engine = any("engine.process" in word for word in _command(engine))
                name = f"{role} engine" if is_engine else f"{HELPERS}{role}"
                found.setdefault(name, []).append(engine)
                for helper in _descendants(engine):
                    found.setdefault(f"{HELPERS}{role}", []).append(helper)
    return found


def port_flags(root: int) -> list[dict[str, int]]:
    """Return the ports of each worker under `root`, by flag without its dashes."""
    workers = []
    for child in _children(root):
        words = _command(child)
        if "serve" in words:
            flags = ("--port", "--admin-port", "--kv-port")
            workers.append({flag[2:]: int(words[words.index(flag) + 1]) for flag in flags})
    return workers


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [
            int(word)
            for path in Path(f"/proc/{pid}/task").glob("*/children")
            for word in path.read_text().split()
        ]
    return []


def _descendants(pid: int) -> list[int]:
    return [each for child in _children(pid) for each in (child, *_descendants(child))]


def _command(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has; 0 when it is gone."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


def reset_peak(pid: int) -> None:
    """Let the kernel count a process' peak anew."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process had since `reset_peak`; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass(slots=True)
class Watch:
    """Samples a service's memory, and sees processes that end or are started again."""

    root: int
    extra: dict[str, int] = field(default_factory=dict)  # processes beside those under `root`
    samples: list[Sample] = field(default_factory=list)
    changes: list[tuple[float, str]] = field(default_factory=list)
    peaks: dict[str, int] = field(default_factory=dict)  # bytes, since `reset`
    _first: dict[str, list[int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; the processes of now are those that must stay."""
        self._first = self._lasting(self._found())
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def pids(self) -> list[int]:
        """Return all processes of the service now."""
        return [pid for pids in self._found().values() for pid in pids]

    def reset(self) -> None:
        """Count peaks anew."""
        with self._lock:
            for pids in self._found().values():
                for pid in pids:
                    reset_peak(pid)
            self.peaks = {}

    def _found(self) -> dict[str, list[int]]:
        return processes(self.root) | {name: [pid] for name, pid in self.extra.items()}

    @staticmethod
    def _lasting(found: dict[str, list[int]]) -> dict[str, list[int]]:
        return {name: pids for name, pids in found.items() if not name.startswith(HELPERS)}

    def _run(self) -> None:
        seen = self._first
        while not self._stop.wait(PAUSE_SECONDS):
            found, now = self._found(), time.monotonic()
            lasting = self._lasting(found)
            if lasting != seen:
                for name in sorted({*lasting, *seen}):
                    before, after = seen.get(name), lasting.get(name)
                    if before != after:
                        self.changes.append((now, f"{name}: process {before} is now {after}"))
                seen = lasting
            sizes = {name: sum(map(resident_bytes, pids)) for name, pids in found.items()}
            self.samples.append(Sample(now, sizes))
            with self._lock:
                for name, pids in found.items():
                    # Helpers come and go: what all of them had at once.
                    several = name.startswith(HELPERS)
                    peak = sizes[name] if several else max(map(peak_bytes, pids), default=0)
                    self.peaks[name] = max(self.peaks.get(name, 0), peak)

"""Fixtures of local mode: a document, and `steelyard up` on a stand-in for the runtime."""

import itertools
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from steelyard_operator.api.load import load
from steelyard_operator.api.v1alpha1 import InferenceService

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "manifests/samples/smollm2.yaml"
MARK = "RUN_OF_A_TEST"  # Children inherit it, so it finds them.
SCRIPT = Path(__file__).with_name("run_up.py")


@pytest.fixture
def anyio_backend() -> str:
    """Local mode is written for asyncio."""
    return "asyncio"


@pytest.fixture
def sample() -> InferenceService:
    """The sample service: one prefill and one decode worker."""
    return load(SAMPLE.read_text(), "smollm2.yaml")


@pytest.fixture
def fake_runtime() -> tuple[str, ...]:
    """The command that stands in for `steelyard-runtime`."""
    return (sys.executable, str(Path(__file__).with_name("fake_runtime.py")))


@dataclass
class Steelyard:
    """Starts `steelyard` in an environment of its own and ends what the test leaves."""

    folder: Path
    environment: dict[str, str]
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `steelyard` with the stand-in; `variables` steer it."""
        return self._start([sys.executable, str(SCRIPT), *arguments], variables)

    def run(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run `steelyard` with the stand-in to its end."""
        return self._finish(self.start(*arguments, **variables))

    def start_real(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `steelyard` with the real runtime."""
        return self._start([sys.executable, "-m", "steelyard_operator.cli", *arguments], {})

    def run_real(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `steelyard` with the real runtime to its end."""
        return self._finish(self.start_real(*arguments))

    def log(self) -> list[str]:
        """Return what the stand-ins recorded: starts and graceful ends."""
        file = Path(self.environment["FAKE_LOG"])
        return file.read_text().splitlines() if file.exists() else []

    def pids(self) -> list[int]:
        """Return the process ids of all stand-ins that were started."""
        return [int(line.split()[2]) for line in self.log() if line.startswith("start")]

    def alive(self) -> list[int]:
        """Return those that still run."""
        return [pid for pid in self.pids() if _runs(pid)]

    def descendants(self) -> list[str]:
        """Return the command lines of all processes, of whatever parent, that this run started."""
        mark = f"{MARK}={self.environment[MARK]}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in folder.joinpath("environ").read_bytes().split(b"\0"):
                    command = folder.joinpath("cmdline").read_bytes()
                    found.append(command.replace(b"\0", b" ").decode())
            except OSError:
                continue  # It ended, or is another user's.
        return [command for command in found if command]  # A zombie has no command line.

    def ports(self) -> list[int]:
        """Return the ports that the command lines of these processes name."""
        words = " ".join(self.descendants()).split()
        flags = ("--port", "--admin-port", "--kv-port")
        named = [int(port) for flag, port in itertools.pairwise(words) if flag in flags]
        return [port for port in named if port]

    def shared_memory(self) -> set[str]:
        """Return all shared memory of the machine, POSIX and System V."""
        segments = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
        files = {path.name for path in Path("/dev/shm").iterdir()}
        return files | {f"shmid {line.split()[1]}" for line in segments}

    def leftovers(self) -> list[str]:
        """Return what is left in the temporary directory."""
        return [path.name for path in Path(self.environment["TMPDIR"]).iterdir()]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        """Wait for a condition; fail the test when it does not hold in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            time.sleep(0.02)

    def _start(self, command: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def _finish(self, process: subprocess.Popen[str]) -> "subprocess.CompletedProcess[str]":
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _runs(pid: int) -> bool:
    """Whether a process exists and is no zombie, whose command line is empty."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except FileNotFoundError:
        return False


@pytest.fixture
def steelyard(tmp_path: Path) -> Iterator[Steelyard]:
    """`steelyard` with our packages, where everything temporary is the test's own."""
    packages = [str(ROOT / name) for name in ("operator", "runtime", "kernels")]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment: Mapping[str, str] = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(packages),
        "TMPDIR": str(temporary),
        "FAKE_LOG": str(tmp_path / "log"),
        MARK: uuid.uuid4().hex,
    }
    steelyard = Steelyard(tmp_path, dict(environment))
    yield steelyard
    for process in steelyard.running:
        if process.poll() is None:
            process.kill()
        process.communicate()

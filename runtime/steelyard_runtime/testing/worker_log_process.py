"""A worker process over the fake engine, whose ports are read from its log."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from steelyard_runtime import parent_pipe

DEADLINE_SECONDS = 30.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return the condition's first true value."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise TimeoutError(f"not within {DEADLINE_SECONDS} s: {what}")


class Process:
    """`serve` in front of the fake engine; the ports are read from its log."""

    def __init__(self, model: str, log: Path, orders: dict[str, Any], *flags: str) -> None:
        self.log = log
        self.client: httpx.Client | None = None
        self.read_end, self.write_end = os.pipe()
        environment = {
            **os.environ,
            "STEELYARD_FAKE_ENGINE": json.dumps(orders),
            parent_pipe.VARIABLE: str(self.read_end),
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "steelyard_runtime.testing.fake_engine_worker",
                    *("--model", model, "--served-model-name", "fake"),
                    *("--port", "0", "--admin-port", "0", "--kv-port", "0"),
                    *("--linger-seconds", "0", *flags),
                ],
                stderr=output,
                env=environment,
                pass_fds=(self.read_end,),
            )
        os.close(self.read_end)

    def lines(self) -> list[dict[str, Any]]:
        """Return the log's JSON lines of a process that runs."""
        text = self.log.read_text()
        assert self.process.poll() is None, text
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def url(self) -> str:
        """Wait for the serving port and return its address."""
        found = until(
            lambda: [line for line in self.lines() if line["message"] == "listening"],
            "listening",
        )
        return f"http://127.0.0.1:{found[0]['port']}"

    def ready(self) -> httpx.Client:
        """Wait for readiness and return a client."""
        client = self.client = httpx.Client(base_url=self.url(), timeout=DEADLINE_SECONDS)
        until(lambda: client.get("/ready").status_code == 200, "ready")
        return client

    def is_leaving(self, client: httpx.Client) -> bool:
        """Whether the process is not ready any more, or gone."""
        try:
            return client.get("/ready").status_code == 503
        except httpx.TransportError:
            return True

    def engine_pid(self) -> int:
        """Return the engine's process id."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def wait(self) -> int:
        """Return the exit code."""
        return self.process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        """End the process if it still runs."""
        if self.client is not None:
            self.client.close()
        self.process.kill()
        self.process.wait()
        if self.write_end >= 0:
            os.close(self.write_end)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

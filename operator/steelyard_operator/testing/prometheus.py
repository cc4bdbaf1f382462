"""A real Prometheus for the time of a block, asked as the dashboard asks it."""

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from steelyard_operator.testing.programs import free_ports, running

RATE_WINDOW = "30s"
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A Prometheus that runs."""

    url: str

    def query(self, expression: str) -> list[Any]:
        """Return the series that a panel's expression gives, for all services."""
        chosen = expression.replace("$__rate_interval", RATE_WINDOW)
        chosen = re.sub(r"\$(namespace|service)", ".+", chosen)
        return list(self._get("query", query=chosen)["result"])

    def targets(self) -> dict[str, str]:
        """Return what is read, by pod: an empty text, or why it could not be read."""
        found = self._get("targets")["activeTargets"]
        return {one["labels"]["pod"]: str(one["lastError"]) for one in found}

    def _get(self, what: str, **asked: str) -> dict[str, Any]:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - ours, on loopback
            content: dict[str, Any] = json.load(answer)["data"]
        return content


@contextmanager
def prometheus(
    program: str, configuration: Mapping[str, Any], folder: Path
) -> Iterator[Prometheus]:
    """Run a Prometheus; the block begins when it is ready.

    Args:
        program: its path.
        configuration: its whole configuration; files in it may be relative to `folder`.
        folder: for its data, its configuration and its log.
    """
    file, log = folder / "prometheus.yaml", folder / "prometheus.log"
    file.write_text(yaml.safe_dump(configuration))
    (port,) = free_ports(1)
    found = Prometheus(f"http://127.0.0.1:{port}")
    command = [
        *(program, f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, log) as process:
        deadline = time.monotonic() + START_SECONDS
        while not _ready(found.url):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, (
                f"Prometheus is not ready: {log.read_text()[-2000:]}"
            )
            time.sleep(0.1)
        yield found


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5):  # noqa: S310 - ours
            return True
    except OSError:
        return False

"""vLLM's preStop, run as the kubelet would: it waits for running requests and no longer."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from steelyard_operator.backends.vllm import WAIT_UNTIL_IDLE

PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="m"}} {waiting}
vllm:num_requests_waiting_by_reason{{engine="0",model_name="m",reason="x"}} 5.0
"""


class Metrics(ThreadingHTTPServer):
    """A vLLM with some answers about its requests; the last one stays."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[float, float]] = []
        self.asked = 0


class _Handler(BaseHTTPRequestHandler):
    server: Metrics

    def do_GET(self) -> None:
        self.server.asked += 1
        answers = self.server.answers
        running, waiting = answers.pop(0) if len(answers) > 1 else answers[0]
        body = PAGE.format(running=running, waiting=waiting).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def vllm() -> Iterator[Metrics]:
    """Its metrics page."""
    with Metrics() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def stop(server: Metrics, seconds: int) -> int:
    """Run what the kubelet runs before it tells the container to end."""
    script = WAIT_UNTIL_IDLE.format(seconds=seconds, port=server.server_port)
    return subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode


def test_it_waits_for_what_runs_and_what_waits(vllm: Metrics) -> None:
    """Each kind of request keeps the process; none lets it go at once."""
    vllm.answers = [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 0.0)]

    assert stop(vllm, seconds=50) == 0
    assert vllm.asked == 3


def test_it_does_not_wait_for_ever(vllm: Metrics) -> None:
    """A request that does not end loses its worker when the drain is over."""
    vllm.answers = [(1.0, 0.0)]

    assert stop(vllm, seconds=3) == 0
    assert vllm.asked >= 1

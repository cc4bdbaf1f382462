"""The worker as a process: signals, exit codes, the engine's end, a port in use."""

import http.client
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from steelyard_runtime import parent_pipe
from steelyard_runtime.testing.worker_log_process import DEADLINE_SECONDS, Process, is_gone, until

Start = Callable[..., Process]


@pytest.fixture
def start(model: Path, tmp_path: Path) -> Iterator[Start]:
    processes: list[Process] = []

    def run(*flags: str, path: str | None = None, **orders: Any) -> Process:
        log = tmp_path / f"log-{len(processes)}"
        processes.append(Process(path or str(model), log, orders, *flags))
        return processes[-1]

    yield run
    for process in processes:
        process.close()


def test_sigterm_finishes_streams_and_exits_0(start: Start) -> None:
    """A drain lets a running stream end, refuses new requests, and ends both processes."""
    process = start(script={"step_seconds": 0.02})
    client = process.ready()
    engine = process.engine_pid()
    body = {"model": "fake", "prompt": "x", "max_tokens": 30, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        process.process.send_signal(signal.SIGTERM)
        with httpx.Client(base_url=str(client.base_url)) as other:
            until(lambda: other.get("/ready").status_code == 503, "not ready")
            refused = other.post("/v1/completions", json=body)
        rest = list(lines)

    assert rest[-2:] == ["data: [DONE]", ""]
    assert refused.status_code == 503
    assert process.wait() == 0
    until(lambda: is_gone(engine), "the engine has ended")


def test_a_kept_connection_may_be_used_after_the_signal(start: Start) -> None:
    """A drained worker answers a client that already has a connection, and only then ends."""
    process = start("--linger-seconds", "20")
    process.ready().close()
    url = httpx.URL(process.url())
    client = http.client.HTTPConnection(url.host, url.port, timeout=DEADLINE_SECONDS)
    client.request("GET", "/health")
    client.getresponse().read()
    process.process.send_signal(signal.SIGTERM)
    until(
        lambda: any(line["message"] == "drained" for line in process.lines()),
        "nothing is in flight",
    )
    client.request("GET", "/ready")
    answer = client.getresponse()
    answer.read()

    assert (answer.status, answer.getheader("connection")) == (503, "close")
    assert process.process.wait(10) == 0
    client.close()


def test_a_silent_connection_is_closed_in_the_end(start: Start) -> None:
    """A client that sends nothing more holds the process for the linger."""
    process = start("--linger-seconds", "0.1")
    process.ready()
    process.process.send_signal(signal.SIGTERM)

    assert process.process.wait(4) == 0


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGINT], 130), ([signal.SIGTERM, signal.SIGTERM], 130)],
    ids=["interrupt", "twice"],
)
def test_impatient_signals_end_at_once(
    start: Start, signals: list[signal.Signals], code: int
) -> None:
    """SIGINT, and a second SIGTERM, do not wait for what runs."""
    process = start(script={"step_seconds": 60.0})
    client = process.ready()
    engine = process.engine_pid()
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as raw:
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\n"
            b"Content-Length: 14\r\n\r\n" + b'{"prompt":"x"}'
        )
        name = "vllm:num_requests_running"
        until(
            lambda: any(
                line.startswith(name) and line.endswith(" 1.0")
                for line in client.get("/metrics").text.splitlines()
            ),
            "the request runs",
        )
        for number in signals:
            process.process.send_signal(number)
            until(lambda: process.is_leaving(client), "the signal is seen")

        assert process.wait() == code
    until(lambda: is_gone(engine), "the engine has ended")


def test_drain_has_a_deadline(start: Start) -> None:
    """What does not end in time is cut off, and the process ends."""
    process = start("--drain-timeout-seconds", "0.2", script={"step_seconds": 60.0})
    client = process.ready()
    body = {"model": "fake", "prompt": "x", "stream": True}
    request = client.build_request("POST", "/v1/completions", json=body)
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as raw:
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: [::1]\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(request.content)}\r\n\r\n".encode()
            + request.content
        )
        process.process.send_signal(signal.SIGTERM)

        assert process.wait() == 0


def test_engine_death_ends_the_process_with_3(start: Start) -> None:
    """A killed engine ends the HTTP process soon after; the stream is told."""
    process = start(script={"step_seconds": 0.02})
    client = process.ready()
    body = {"model": "fake", "prompt": "x", "max_tokens": 1000, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(process.engine_pid(), signal.SIGKILL)
        rest = [line for line in lines if line]

    assert '"engine_dead"' in rest[-1]
    assert process.wait() == 3


def test_failed_start_is_one_sentence_and_2(start: Start) -> None:
    """What the engine says of a wrong checkpoint is all that the user sees."""
    process = start(fail="the checkpoint is broken", wrong_input=True, exit_code=2)

    assert process.wait() == 2
    text = [line for line in process.log.read_text().splitlines() if not line.startswith("{")]
    assert text == ["steelyard-runtime: the checkpoint is broken"]


def test_engine_that_dies_while_loading_ends_with_3(start: Start) -> None:
    """A start that fails for another reason than the input is the engine's death."""
    process = start(fail="it broke", exit_code=3)

    assert process.wait() == 3
    assert "it broke" in process.log.read_text()


@pytest.mark.parametrize(
    ("path", "flags", "named"),
    [
        ("/nonexistent", (), "/nonexistent"),
        (None, ("--tool-call-parser", "nobody"), "--tool-call-parser"),
        (None, ("--host", "no.such.host.invalid"), "--host"),
    ],
    ids=["no checkpoint", "unknown parser", "unknown host"],
)
def test_wrong_input_is_one_sentence_and_2(
    start: Start, path: str | None, flags: tuple[str, ...], named: str
) -> None:
    """No traceback: one line that names what is wrong."""
    process = start(*flags, path=path)

    assert process.wait() == 2
    text = [line for line in process.log.read_text().splitlines() if not line.startswith("{")]
    assert len(text) == 1
    assert named in text[0]


@pytest.mark.parametrize("flag", ["--port", "--admin-port"])
def test_a_port_in_use_is_told_at_once(start: Start, flag: str) -> None:
    """The sentence names the flag and the port; nothing was loaded for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        process = start(flag, str(number))

        assert process.wait() == 2
    assert f"{flag}: cannot listen on 127.0.0.1:{number}" in process.log.read_text()


def test_it_ends_with_its_parent(start: Start) -> None:
    """When the parent's pipe closes, HTTP process and engine end."""
    process = start()
    process.ready()
    engine = process.engine_pid()

    os.close(process.write_end)
    process.write_end = -1

    assert process.wait() == parent_pipe.EXIT_CODE
    until(lambda: is_gone(engine), "the engine has ended")

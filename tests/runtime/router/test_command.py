"""The `router` command: flags, wrong input, start, drain."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError

import aiohttp
import pytest

from steelyard_runtime.cli import main
from steelyard_runtime.parent_pipe import EXIT_CODE, VARIABLE
from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import CHAT, chat, write_membership


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    """Return an empty membership."""
    path = tmp_path / "members.json"
    path.write_text('{"version": 1, "workers": []}')
    return path


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "x"], "--port: must be an integer 0 to 65535, got 'x'"),
        (["--port", "70000"], "must be an integer 0 to 65535"),
        (["--queue-timeout-seconds", "-1"], "must be seconds above 0, got '-1'"),
        (["--max-request-bytes", "many"], "must be a positive number of bytes, got 'many'"),
        (["--log-level", "loud"], "choose from"),
        (["--unknown", "1"], "unrecognized arguments: --unknown 1"),
        (["--api-keys-file", "nowhere"], "--api-keys-file 'nowhere' must be a readable text file"),
        (["--worker-api-key-file", "/dev/null"], "must hold a key, got an empty file"),
        (["--membership-file", "nowhere"], "membership file 'nowhere' must be readable"),
        (["--membership-file", "/dev/null"], "must be JSON"),
    ],
)
def test_wrong_flag_gets_a_sentence(
    flags: list[str], said: str, membership: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong input exits with 2 and one sentence that names the flag and what is allowed."""
    required = ["--membership-file", str(membership), "--served-model-name", "m"]

    assert main(["router", *required, *flags]) == 2
    written = capsys.readouterr().err
    assert said in written
    assert written.count("\n") == 1


def test_required_flags_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A missing flag is named."""
    assert main(["router"]) == 2
    assert "required: --served-model-name" in capsys.readouterr().err


@contextmanager
def process(
    membership: Path, port: int, name: str = "m", flags: tuple[str, ...] = (), **extra: object
) -> Iterator[subprocess.Popen[str]]:
    """Run a router process."""
    command = [sys.executable, "-m", "steelyard_runtime.cli", "router", "--port", str(port)]
    command += ["--membership-file", str(membership), "--served-model-name", name, *flags]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **extra)  # type: ignore[call-overload]  # keywords of Popen
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _wait_until_it_answers(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(URLError, ConnectionError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
                answer.read()
            return
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_idle_router_ends_at_once(membership: Path, number: signal.Signals, code: int) -> None:
    """SIGTERM drains and exits with 0, an interrupt with 130; logs are JSON lines."""
    port = _free_port()
    with process(membership, port) as router:
        _wait_until_it_answers(port)
        router.send_signal(number)
        _, errors = router.communicate(timeout=10)

    assert router.returncode == code
    messages = [json.loads(line)["message"] for line in errors.splitlines()]
    assert "listening" in messages


def test_port_in_use_gets_a_sentence(membership: Path) -> None:
    """A port that is taken exits with 2 and names the flag."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with process(membership, port) as router:
            _, errors = router.communicate(timeout=20)

    assert router.returncode == 2
    assert f"--port {port} is in use on 127.0.0.1" in errors
    assert "Traceback" not in errors


def test_router_ends_with_its_parent(membership: Path) -> None:
    """When the pipe of the parent closes, the router ends at once."""
    port = _free_port()
    read, write = os.pipe()
    environment = {**os.environ, VARIABLE: str(read)}
    with process(membership, port, env=environment, pass_fds=(read,)) as router:
        os.close(read)
        _wait_until_it_answers(port)
        os.close(write)
        router.communicate(timeout=10)

    assert router.returncode == EXIT_CODE


@pytest.mark.anyio
async def test_drain_finishes_what_runs(membership: Path) -> None:
    """On SIGTERM a running stream is finished, new requests are still served, then it exits."""
    worker = await FakeWorker().start()
    worker.faults.append(Fault(stall_after_tokens=2))
    write_membership(membership, [worker])
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with process(membership, port, name="fake") as router:
        await asyncio.to_thread(_wait_until_it_answers, port)
        async with (
            aiohttp.ClientSession() as client,
            client.post(url + CHAT, json=chat(stream=True)) as answer,
        ):
            router.send_signal(signal.SIGTERM)
            await _until_draining(client, url)
            async with client.post(url + CHAT, json=chat()) as another:
                late = another.status
            worker.resume.set()
            stream = await answer.read()
            # That answer's head was out before the signal: its connection may be used again.
            async with client.post(url + CHAT, json=chat()) as again:
                reused, connection = again.status, again.headers.get("Connection")
        _, errors = await asyncio.to_thread(router.communicate, timeout=10)
    await worker.kill()

    assert late == 200
    assert (reused, connection) == (200, "close")
    assert stream.endswith(b"data: [DONE]\n\n")
    assert router.returncode == 0, errors


def test_a_kept_connection_may_be_used_after_the_signal(membership: Path) -> None:
    """An idle router answers a client that already has a connection, and only then ends."""
    port = _free_port()
    with process(membership, port) as router, _kept_connection(port) as client:
        router.send_signal(signal.SIGTERM)
        _wait_until_it_drains(router)
        client.request("GET", "/health")
        answer = client.getresponse()
        answer.read()
        router.wait(timeout=10)

    assert (answer.status, answer.getheader("Connection")) == (200, "close")
    assert router.returncode == 0


@pytest.mark.parametrize(
    "flags", [("--linger-seconds", "0.1"), ("--drain-timeout-seconds", "0.1")], ids=" ".join
)
def test_a_silent_connection_is_closed_in_the_end(membership: Path, flags: tuple[str, ...]) -> None:
    """A client that sends nothing more holds the process for the linger, within the drain."""
    port = _free_port()
    with process(membership, port, flags=flags) as router, _kept_connection(port) as client:
        router.send_signal(signal.SIGTERM)
        router.wait(timeout=4)  # The default linger is longer.
        end = client.sock.recv(1)

    assert (router.returncode, end) == (0, b"")


@contextmanager
def _kept_connection(port: int) -> Iterator[http.client.HTTPConnection]:
    """A connection that has had one answer and stays open."""
    _wait_until_it_answers(port)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.request("GET", "/health")
    client.getresponse().read()
    try:
        yield client
    finally:
        client.close()


def _wait_until_it_drains(router: "subprocess.Popen[str]") -> None:
    assert router.stderr is not None
    while "draining" not in (line := router.stderr.readline()):
        assert line, "the router ended"


async def _until_draining(client: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(10):
        while True:
            async with client.get(url + "/ready") as answer:
                if (await answer.json())["status"] == "draining":
                    return

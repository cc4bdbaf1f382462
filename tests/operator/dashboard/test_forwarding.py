"""Forwarded ports: one kubectl a router, begun again when it ends, none left behind."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from steelyard_operator.dashboard.forwarding import Forwards
from steelyard_operator.errors import UserError

pytestmark = pytest.mark.anyio

# Says what kubectl says, writes down what it was asked, and stays until it is ended.
KUBECTL = """#!/bin/sh
echo "$$ $*" >> "{log}"
case "$*" in *missing*) exit 1;; esac
echo "Forwarding from 127.0.0.1:4$((100 + $(wc -l < "{log}"))) -> 8080"
exec sleep 600
"""


@pytest.fixture
def anyio_backend() -> str:
    """Processes are asyncio's."""
    return "asyncio"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the played kubectl was asked, a line each, its process id first."""
    written = tmp_path / "log"
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL.format(log=written))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return written


def pids(log: Path) -> list[int]:
    return [int(line.partition(" ")[0]) for line in log.read_text().splitlines()]


def asked(log: Path) -> list[str]:
    return [line.partition(" ")[2] for line in log.read_text().splitlines()]


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_each_router_has_a_port(log: Path) -> None:
    """By its pod, in the namespace and context that were named; gone pods lose theirs."""
    forwards = Forwards("ns", "there")
    await forwards.follow(["r-1", "r-2"])

    assert forwards.urls == ["http://127.0.0.1:4101", "http://127.0.0.1:4102"]
    first, second = pids(log)
    said = "--namespace ns --context there port-forward --address 127.0.0.1 pod/r-1 :8080"
    assert asked(log)[0] == said

    await forwards.follow(["r-2"])
    assert forwards.urls == ["http://127.0.0.1:4102"]
    assert not lives(first)
    await forwards.close()
    assert forwards.urls == []
    assert not lives(second)


async def test_a_forward_that_ended_is_begun_again(log: Path) -> None:
    """A router that restarts ends it."""
    forwards = Forwards("ns", None)
    await forwards.follow(["r-1"])
    os.kill(pids(log)[0], 9)

    async with asyncio.timeout(10):
        while len(pids(log)) == 1:
            await forwards.follow(["r-1"])
            await asyncio.sleep(0.01)
    assert forwards.urls == ["http://127.0.0.1:4102"]
    await forwards.close()


async def test_a_pod_that_cannot_be_reached_is_left_out(log: Path) -> None:
    """The page shows what there is; the next look tries again."""
    forwards = Forwards("ns", None)
    await forwards.follow(["missing", "r-1"])

    assert forwards.urls == ["http://127.0.0.1:4102"]
    await forwards.close()


async def test_without_kubectl_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked."""
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(UserError, match="needs kubectl in PATH"):
        Forwards("ns", None)

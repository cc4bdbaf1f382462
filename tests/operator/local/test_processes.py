"""The process table with tiny commands for workers."""

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from steelyard_operator.errors import UserError
from steelyard_operator.local.parent_pipe import ParentPipe
from steelyard_operator.local.processes import STABLE_SECONDS, ProcessTable

pytestmark = pytest.mark.anyio


def script(text: str) -> list[str]:
    """Return the command that runs a few lines of Python."""
    return [sys.executable, "-S", "-c", textwrap.dedent(text)]


SLEEPER = script("""
    import time
    print("up", flush=True)
    time.sleep(60)
""")
DEAF = script("""
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("up", flush=True)
    time.sleep(60)
""")


@pytest.fixture
def pipe() -> Iterator[ParentPipe]:
    """The pipe that children watch."""
    with ParentPipe() as pipe:
        yield pipe


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


def table_on(pipe: ParentPipe, clock: Callable[[], float] = time.monotonic) -> ProcessTable:
    """Return an empty table."""
    return ProcessTable(pipe, clock=clock)


async def test_an_end_is_noticed_with_its_code_and_last_words(pipe: ParentPipe) -> None:
    """An exit wakes whoever waits, and the tail holds what the process said."""
    table = table_on(pipe)
    table.start("a", script("print('one'); print('two', end=''); raise SystemExit(3)"), os.environ)
    await asyncio.wait_for(table.changed.wait(), 10)

    assert table.observe()["a"].exit_code == 3
    assert table.tail("a") == ["one", "two"]


async def test_failures_in_a_row_are_counted(pipe: ParentPipe) -> None:
    """A process that is started again keeps the count of its failures."""
    table = table_on(pipe)
    for _ in range(3):
        table.changed.clear()
        table.start("a", script("raise SystemExit(1)"), os.environ)
        await asyncio.wait_for(table.changed.wait(), 10)

    assert table.observe()["a"].failures == 3


async def test_a_long_run_forgives_earlier_failures(pipe: ParentPipe) -> None:
    """An exit after a minute of service counts as the first."""
    times = iter([0.0, 1.0, 2.0, 2.0 + STABLE_SECONDS])
    table = table_on(pipe, clock=lambda: next(times))
    for _ in range(2):
        table.changed.clear()
        table.start("a", script("raise SystemExit(1)"), os.environ)
        await asyncio.wait_for(table.changed.wait(), 10)

    assert table.observe()["a"].failures == 1


async def test_stop_asks_first(pipe: ParentPipe) -> None:
    """A process that listens ends by SIGTERM."""
    table = table_on(pipe)
    table.start("a", SLEEPER, os.environ)
    await until(lambda: table.tail("a") == ["up"])
    await table.stop(["a", "never started"], grace_seconds=10)

    assert table.observe()["a"].exit_code == -signal.SIGTERM


async def test_stop_kills_what_does_not_listen(pipe: ParentPipe) -> None:
    """A process that ignores SIGTERM is killed after the grace."""
    table = table_on(pipe)
    table.start("a", DEAF, os.environ)
    await until(lambda: table.tail("a") == ["up"])
    await table.stop(["a"], grace_seconds=0.1)

    assert table.observe()["a"].exit_code == -signal.SIGKILL


async def test_an_end_is_noticed_although_a_grandchild_holds_the_output(pipe: ParentPipe) -> None:
    """A worker whose engine outlives it for a moment is not taken for alive."""
    table = table_on(pipe)
    text = "import subprocess; subprocess.Popen(['sleep', '30']); raise SystemExit(3)"
    table.start("a", script(text), os.environ)
    await asyncio.wait_for(table.changed.wait(), 10)

    assert table.observe()["a"].exit_code == 3
    os.killpg(table.pid("a"), signal.SIGKILL)


async def test_a_missing_command_is_one_sentence(pipe: ParentPipe) -> None:
    """The user learns which command is missing."""
    with pytest.raises(UserError, match="cannot run '/no/such': No such file or directory"):
        table_on(pipe).start("a", ["/no/such"], os.environ)


async def test_a_child_sees_the_end_of_the_pipe(pipe: ParentPipe) -> None:
    """A child reads the end of the pipe when the write end closes, so none is inherited."""
    table = table_on(pipe)
    reader = "import os; os.read(int(os.environ['STEELYARD_PARENT_PIPE_FD']), 1); print('gone')"
    with ParentPipe() as other:
        second = table_on(other)
        second.start("b", script(reader), os.environ)
        table.start("a", SLEEPER, os.environ)
    await until(lambda: second.tail("b") == ["gone"])
    await second.kill_all()
    await table.kill_all()

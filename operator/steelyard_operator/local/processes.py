"""The process table: starts, watches and ends child processes, and keeps the tail of their output.

What to start and when is `planning`'s. Every child is the leader of its own session, so Ctrl-C in a
terminal reaches only this process, which then ends them in order.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from steelyard_operator.errors import UserError
from steelyard_operator.local.output import LineReader
from steelyard_operator.local.parent_pipe import ParentPipe
from steelyard_operator.local.planning import Seen

STABLE_SECONDS = 60.0
"""A process that ran so long has recovered: its next exit counts as the first."""


class _Child:
    """One process: what was seen of it, and the end that others wait for."""

    def __init__(self, process: subprocess.Popen[bytes], output: LineReader, seen: Seen) -> None:
        self.process = process
        self.output = output
        self.seen = seen
        self.ended = asyncio.Event()


class ProcessTable:
    """The children of this process, by name."""

    def __init__(
        self,
        pipe: ParentPipe,
        *,
        clock: Callable[[], float],
        on_line: Callable[[str, str], None] = lambda _name, _line: None,
    ) -> None:
        """Create an empty table; `on_line` gets each line of output with its process' name."""
        self._pipe = pipe
        self._clock = clock
        self._on_line = on_line
        self._children: dict[str, _Child] = {}
        self.changed = asyncio.Event()
        """Set when a process ends; whoever waits for it clears it."""

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a process, or start it again after it ended; call inside the event loop.

        Raises:
            UserError: the command cannot be run.
        """
        earlier = self._children.get(name)
        try:
            process = subprocess.Popen(
                list(command),
                env={**environment, **self._pipe.environment()},
                pass_fds=(self._pipe.read_descriptor,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"cannot run '{command[0]}': {error.strerror}") from None
        assert process.stdout is not None
        output = LineReader(process.stdout, lambda line: self._on_line(name, line))
        failures = earlier.seen.failures if earlier else 0
        child = _Child(process, output, Seen(started_at=self._clock(), failures=failures))
        self._children[name] = child
        loop = asyncio.get_running_loop()

        def wait() -> None:
            process.wait()
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody listens.
                loop.call_soon_threadsafe(self._note_end, child)

        threading.Thread(target=wait, name=f"wait for {name}", daemon=True).start()

    def observe(self) -> dict[str, Seen]:
        """Return every process that was ever started."""
        return {name: child.seen for name, child in self._children.items()}

    def pid(self, name: str) -> int:
        """Return the process id of the newest process of that name."""
        return self._children[name].process.pid

    def note_answer(self, name: str) -> None:
        """Note that a process answered a probe now."""
        child = self._children[name]
        child.seen = replace(child.seen, answered_at=self._clock())

    def tail(self, name: str) -> list[str]:
        """Return the last lines that a process wrote."""
        return list(self._children[name].output.tail)

    def kill(self, name: str) -> None:
        """End a process and its session at once."""
        self._signal([self._children[name]], signal.SIGKILL)

    async def stop(self, names: Iterable[str], *, grace_seconds: float) -> None:
        """Ask processes to end, wait for them, and kill what is left after the grace."""
        children = [self._children[name] for name in names if name in self._children]
        self._signal(children, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_all_ended(children), grace_seconds)
        self._signal(children, signal.SIGKILL)
        await _all_ended(children)

    async def kill_all(self) -> None:
        """End every process at once and wait until they are gone."""
        children = list(self._children.values())
        self._signal(children, signal.SIGKILL)
        await _all_ended(children)

    def _signal(self, children: Iterable[_Child], number: signal.Signals) -> None:
        for child in children:
            if child.seen.exit_code is not None:
                continue
            with contextlib.suppress(ProcessLookupError):
                if number is signal.SIGKILL:
                    os.killpg(child.process.pid, number)
                else:
                    child.process.send_signal(number)

    def _note_end(self, child: _Child) -> None:
        child.output.drain()
        now = self._clock()
        stable = now - child.seen.started_at >= STABLE_SECONDS
        child.seen = replace(
            child.seen,
            ended_at=now,
            exit_code=child.process.returncode,
            failures=1 if stable else child.seen.failures + 1,
        )
        child.ended.set()
        self.changed.set()


async def _all_ended(children: Iterable[_Child]) -> None:
    for child in children:
        await child.ended.wait()

"""Operators as forks of a process that has everything imported: a start takes a tenth of the time.

A test that lets an operator die dozens of times would spend its time on imports.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

# Not the modules that are run: they would be there twice.
PRELOADED = ("steelyard_operator.cli", "steelyard_operator.main")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(list(PRELOADED))


class Fork:
    """A process with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, module: str, environment: Mapping[str, str], log: Path) -> None:
        """Run a module as a program with the one argument `operator`; its output goes to `log`."""
        self._process: ForkServerProcess = _FORKS.Process(
            target=_run, args=(module, dict(environment), str(log)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._process.exitcode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Raises:
            TimeoutError: it did not come.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} did not end in {timeout:.0f} s")
        return self._process.exitcode


def _run(module: str, environment: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(target, stream)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    sys.argv = [module, "operator"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

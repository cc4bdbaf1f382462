"""Starting and ending the engine process.

The child gets one end of a socket pair (`STEELYARD_ENGINE_SOCKET_FD`) and the read end of a pipe
that it watches, so that it ends with this process however this process ends.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from steelyard_runtime import parent_pipe

SOCKET_VARIABLE = "STEELYARD_ENGINE_SOCKET_FD"
ENGINE_COMMAND = (sys.executable, "-m", "steelyard_runtime.engine.process")


class EngineProcess:
    """The engine as a child process; `sock` is our end of the socket pair."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start `command`; it reads its configuration from the socket."""
        ours, theirs = socket.socketpair()
        watched, self._kept = os.pipe()
        self.sock = ours
        child_environment = {
            **environment,
            SOCKET_VARIABLE: str(theirs.fileno()),
            parent_pipe.VARIABLE: str(watched),
        }
        try:
            # Its own session: Ctrl-C in a terminal reaches this process alone, which drains first.
            self._process = subprocess.Popen(
                list(command),
                env=child_environment,
                pass_fds=(theirs.fileno(), watched),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(watched)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    async def exit_code(self, timeout_seconds: float) -> int | None:
        """Wait for the end; return the exit code, or None where the process still runs."""
        try:
            return await asyncio.to_thread(self._process.wait, timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End the process now and reap it."""
        self._process.kill()
        self._process.wait()
        os.close(self._kept)

"""End with the parent: no orphan outlives the process that started it.

The parent keeps the write end of a pipe and never writes; when it ends, however it ends, the read
end reaches end of file and this process exits at once.
"""

import os
import threading
from collections.abc import Mapping

VARIABLE = "STEELYARD_PARENT_PIPE_FD"
EXIT_CODE = 143


def exit_with_parent(environment: Mapping[str, str]) -> None:
    """Watch the pipe that `STEELYARD_PARENT_PIPE_FD` names, if it names one."""
    number = environment.get(VARIABLE)
    if number is None:
        return
    descriptor = int(number)
    os.set_inheritable(descriptor, False)

    def watch() -> None:
        while os.read(descriptor, 1):
            pass
        os._exit(EXIT_CODE)

    threading.Thread(target=watch, name="parent-pipe", daemon=True).start()

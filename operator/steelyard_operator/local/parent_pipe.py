"""The pipe by which children notice that this process is gone.

Children inherit the read end; the write end is close-on-exec and never written. When this process
ends, by whatever signal, the read end reaches its end and the children exit. There is no moment
without the pipe: a child has it from its fork, and its copy of the write end ends with its exec.
"""

import os
from typing import Self

VARIABLE = "STEELYARD_PARENT_PIPE_FD"


class ParentPipe:
    """Both ends of the pipe; use as a context manager."""

    def __init__(self) -> None:
        """Open the pipe; both ends are close-on-exec."""
        self.read_descriptor, self._write_descriptor = os.pipe()

    def environment(self) -> dict[str, str]:
        """What a child needs beside the inherited `read_descriptor`."""
        return {VARIABLE: str(self.read_descriptor)}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close both ends: whatever still runs ends now."""
        os.close(self._write_descriptor)
        os.close(self.read_descriptor)

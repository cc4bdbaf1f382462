"""The output of a child process, line by line, without ever blocking it or this process."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import IO

TAIL_LINES = 50
LONGEST_LINE_BYTES = 64 * 1024


class LineReader:
    """Reads a pipe inside the event loop; keeps its last lines in `tail`."""

    def __init__(self, pipe: IO[bytes], on_line: Callable[[str], None]) -> None:
        """Start to read; call inside the event loop."""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._pipe = pipe
        self._on_line = on_line
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe.fileno(), self._read)

    def drain(self) -> None:
        """Take what is there and stop, although a grandchild may still hold the other end."""
        while not self._pipe.closed and self._read():
            pass
        self._close()

    def _read(self) -> bool:
        try:
            chunk = os.read(self._pipe.fileno(), 65536)
        except BlockingIOError:
            return False
        if not chunk:
            self._close()
            return False
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[-LONGEST_LINE_BYTES:]
        for line in lines:
            self._take(line)
        return True

    def _close(self) -> None:
        if self._pipe.closed:
            return
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        if self._rest:
            self._take(self._rest)

    def _take(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        self.tail.append(text)
        self._on_line(text)

"""One private directory for everything temporary of one run.

It is removed at the end. A run that was killed cannot do that, so the next one removes directories
whose lock is free: the kernel drops a lock with the process that held it, however it ended.
"""

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Self

PREFIX = "steelyard-up-"
LOCK = "lock"

# A directory without a lock is either half made by a starting run or half removed by an ending one.
HALF_MADE_SECONDS = 60


class Scratch:
    """A directory of mode 0700, held by a lock; use as a context manager."""

    def __init__(self, base: Path | None = None) -> None:
        """Create the directory under `base`, the system's temporary directory by default."""
        parent = Path(tempfile.gettempdir()) if base is None else base
        remove_stale(parent)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def write_secret(self, name: str, text: str) -> Path:
        """Write a file that only this user can read; returns its path."""
        path = self.path / name
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def directory(self, name: str) -> Path:
        """Create a private directory inside; returns its path."""
        path = self.path / name
        path.mkdir(mode=0o700)
        return path

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the directory."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_stale(parent: Path) -> None:
    """Remove what killed runs of this user left under `parent`."""
    for path in parent.glob(f"{PREFIX}*"):
        try:
            if path.stat().st_uid == os.getuid() and _is_stale(path):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # Removed by its owner, or by another run that cleans.


def _is_stale(path: Path) -> bool:
    try:
        descriptor = os.open(path / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return time.time() - path.stat().st_mtime > HALF_MADE_SECONDS
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True

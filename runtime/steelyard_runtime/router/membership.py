"""Who the workers are: the membership document and the file that it is watched in.

Decides nothing about health. Another source (EndpointSlices) is another `MembershipSource`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from steelyard_runtime.errors import ConfigError

logger = logging.getLogger(__name__)

_MOST_BYTES = 16 * 1024**2  # some 100,000 workers

Role = Literal["prefill", "decode", "both"]


class Member(msgspec.Struct, frozen=True):
    """One worker as its source names it; None where the worker itself is asked.

    Unknown fields are ignored, so that a newer writer does not break an older router.
    """

    id: str
    url: str
    role: Role | None = None
    phase: str | None = None
    fingerprint: str | None = None


class _Document(msgspec.Struct):
    version: Literal[1]
    workers: list[Member]


Failed = Callable[[str], None]


def ignore(reason: str) -> None:
    """Count no failure."""


class MembershipSource(Protocol):
    """Where members come from."""

    def watch(self, failed: Failed = ignore) -> AsyncIterator[tuple[Member, ...]]:
        """Yield the members now and again after each change; never ends by itself.

        The first that it yields are all there are. Each reading that failed is told to `failed`
        with a reason, a label of counters; the last members stay.
        """
        ...


def parse_membership(content: bytes, source: str) -> tuple[Member, ...]:
    """Read a membership document.

    Raises:
        ConfigError: one sentence that names the file and what is wrong in it.
    """
    try:
        workers = msgspec.json.decode(content, type=_Document).workers
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f'{source} must be JSON of the form {{"version": 1, "workers": [...]}}: {error}'
        ) from None
    seen: set[str] = set()
    for worker in workers:
        if worker.id in seen:
            raise ConfigError(f"{source} must not name the worker '{worker.id}' twice")
        seen.add(worker.id)
        if not _is_url(worker.url):
            raise ConfigError(
                f"{source}: the url of worker '{worker.id}' must be http://host:port, "
                f"got '{worker.url}'"
            )
    return tuple(msgspec.structs.replace(one, url=one.url.rstrip("/")) for one in workers)


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class MembershipFile:
    """A membership document in a file that others replace by atomic rename.

    Watched by looking at its inode, size and modification time: no platform's notification
    interface is needed, and network file systems and projected volumes work too.
    """

    def __init__(self, path: Path, poll_seconds: float = 0.2) -> None:
        self._path = path
        self._poll_seconds = poll_seconds
        self._stamp: tuple[int, int, int] | None = None

    def read(self) -> tuple[Member, ...]:
        """Read the file once.

        Raises:
            ConfigError: the file is missing, unreadable or wrong.
        """
        try:
            self._stamp = self._look()
            with self._path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ConfigError(
                f"membership file '{self._path}' must be readable: {error.strerror}"
            ) from None
        if len(content) > _MOST_BYTES:
            raise ConfigError(
                f"membership file '{self._path}' must have at most {_MOST_BYTES} bytes"
            )
        return parse_membership(content, f"membership file '{self._path}'")

    async def watch(self, failed: Failed = ignore) -> AsyncIterator[tuple[Member, ...]]:
        """Yield the members at each change; wrong content keeps the last good one, logged once."""
        while True:
            try:
                changed = self._look() != self._stamp
            except OSError:
                changed = self._stamp is not None
            if changed:
                try:
                    members = self.read()
                except ConfigError as error:
                    if not self._path.exists():
                        self._stamp = None
                    logger.warning("membership kept: %s", error)
                    failed("file")
                else:
                    yield members
            await asyncio.sleep(self._poll_seconds)

    def _look(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

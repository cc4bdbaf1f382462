"""Files of keys, read again when they change: a key that is removed stops working at once.

A file that becomes unreadable or wrong keeps the last good keys, with one warning. Kubernetes
changes a mounted Secret by moving a link, which changes the inode that is looked at here.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.router.keys import ApiKey, parse_api_keys

logger = logging.getLogger(__name__)

Keys = TypeVar("Keys")

POLL_SECONDS = 1.0
_MOST_BYTES = 16 * 1024**2  # some 100,000 keys


def read_api_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read the keys of clients.

    Raises:
        ConfigError: the file is unreadable or wrong.
    """
    return parse_api_keys(_text(path, "--api-keys-file"), f"--api-keys-file '{path}'")


def read_worker_key(path: Path) -> str:
    """Read the key that workers expect: the file's first word.

    Raises:
        ConfigError: the file is unreadable or empty.
    """
    words = _text(path, "--worker-api-key-file").split()
    if not words:
        raise ConfigError(f"--worker-api-key-file '{path}' must hold a key, got an empty file")
    return words[0]


async def follow(
    path: Path, read: Callable[[Path], Keys], now: Keys, tell: Callable[[Keys], None]
) -> None:
    """Tell of each change of the file until cancelled; `now` is what is known already."""
    seen: object = None
    while True:
        stamp = _stamp(path)
        if stamp != seen:
            seen = stamp
            try:
                keys = read(path)
            except ConfigError as error:
                logger.warning("keys kept: %s", error)
            else:
                if keys != now:
                    now = keys
                    tell(keys)
                    logger.info("keys read again", extra={"fields": {"file": str(path)}})
        await asyncio.sleep(POLL_SECONDS)


def _stamp(path: Path) -> tuple[int, int, int] | str:
    try:
        status = path.stat()
    except OSError as error:
        return type(error).__name__
    return status.st_ino, status.st_size, status.st_mtime_ns


def _text(path: Path, flag: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"{flag} '{path}' must have at most {_MOST_BYTES} bytes")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{flag} '{path}' must be a readable text file: {reason}") from None

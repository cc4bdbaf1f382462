"""One file from a source: resumed where it broke off, checked, and tried again for a while."""

import logging
import random
import threading
from pathlib import Path
from typing import BinaryIO

from steelyard_runtime.errors import FetchError
from steelyard_runtime.fetch.listing import BrokenConnectionError, RemoteFile, Source
from steelyard_runtime.fetch.progress import Progress

logger = logging.getLogger(__name__)

ATTEMPTS = 6  # without a byte between them
MISMATCHES = 2
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
PIECE_BYTES = 1024 * 1024


def download(
    source: Source,
    file: RemoteFile,
    partial: Path,
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Make `partial` the whole file, from whatever it holds already, unless told to stop.

    Raises:
        FetchError: the content is not what the source says, or the source cannot be read.
        OSError: the file cannot be written.
    """
    for _ in range(MISMATCHES):
        had_bytes = partial.stat().st_size if partial.exists() else 0
        progress.add(had_bytes)
        _complete(source, file, partial, progress, stop)
        size_bytes = partial.stat().st_size
        if size_bytes == file.size_bytes and _matches(source, file, partial):
            return
        progress.add(-size_bytes)
        partial.unlink()
        logger.warning("checksum mismatch, once more", extra={"fields": {"file": file.path}})
    raise FetchError(
        f"{source.uri}: the checksum of '{file.path}' does not match after {MISMATCHES} downloads; "
        "the file at the source, or a proxy on the way, is broken"
    )


def _complete(
    source: Source,
    file: RemoteFile,
    partial: Path,
    progress: Progress,
    stop: threading.Event,
) -> None:
    failures = 0
    with partial.open("ab") as out:
        while out.tell() < file.size_bytes:
            before_bytes = out.tell()
            try:
                _append(source, file, out, progress, stop)
                if out.tell() == before_bytes:
                    raise BrokenConnectionError("the answer was empty")
            except BrokenConnectionError as error:
                out.flush()
                failures = 1 if out.tell() > before_bytes else failures + 1
                if failures >= ATTEMPTS:
                    raise FetchError(
                        f"{source.uri}: '{file.path}' cannot be read, {failures} attempts failed, "
                        f"the last one with: {error}",
                        passing=True,
                    ) from None
                logger.info("fetch broke off", extra={"fields": {"why": str(error)[:300]}})
                stop.wait(_pause_seconds(failures))
        out.flush()


def _append(
    source: Source, file: RemoteFile, out: BinaryIO, progress: Progress, stop: threading.Event
) -> None:
    for piece in source.read(file, out.tell()):
        if stop.is_set():
            raise FetchError(f"{source.uri}: stopped", passing=True)
        # Never more than there should be: a server that sends on and on fills no disk.
        kept = piece[: file.size_bytes - out.tell()]
        out.write(kept)
        progress.add(len(kept))
        if len(kept) < len(piece):
            return


def _matches(source: Source, file: RemoteFile, partial: Path) -> bool:
    digest = source.digest(file)
    if digest is None:
        return True
    found = digest.start(file.size_bytes)
    with partial.open("rb") as content:
        while piece := content.read(PIECE_BYTES):
            found.update(piece)
    return found.hexdigest() == digest.hexadecimal


def _pause_seconds(failures: int) -> float:
    longest: float = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
    share: float = random.uniform(0.5, 1.0)  # noqa: S311  # no secret
    return longest * share

"""One file from a source: resumed where it broke off, checked, and tried again for a while."""

import contextlib
import logging
import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from steelyard_runtime.errors import FetchError
from steelyard_runtime.fetch.listing import BrokenConnectionError, RemoteFile, Source
from steelyard_runtime.fetch.progress import Progress
from steelyard_runtime.fetch.proof import digest_of
from steelyard_runtime.fetch.stalls import Stalls

logger = logging.getLogger(__name__)

ATTEMPTS = 6  # with less than this between them
ENOUGH_BYTES = 64 * 1024
MISMATCHES = 2
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Supervision:
    """What the downloads of one fetch share."""

    progress: Progress
    stalls: Stalls
    stop: threading.Event


def download(
    source: Source,
    file: RemoteFile,
    partial: Path,
    watch: Supervision,
) -> None:
    """Make `partial` the whole file, from whatever it holds already, unless told to stop.

    Raises:
        FetchError: the content is not what the source says, or the source cannot be read.
        OSError: the file cannot be written.
    """
    for _ in range(MISMATCHES):
        had_bytes = partial.stat().st_size if partial.exists() else 0
        watch.progress.add(had_bytes)
        try:
            _complete(source, file, partial, watch)
        except FetchError as error:
            if not error.passing:
                partial.unlink(missing_ok=True)
            raise
        size_bytes = partial.stat().st_size
        if size_bytes == file.size_bytes and _matches(source, file, partial):
            return
        watch.progress.add(-size_bytes)
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
    watch: Supervision,
) -> None:
    failures = 0
    with partial.open("ab") as out:
        while out.tell() < file.size_bytes:
            if watch.stop.is_set():
                raise FetchError(f"{source.uri}: stopped", passing=True)
            before_bytes = out.tell()
            try:
                _append(source, file, out, watch)
                if out.tell() == before_bytes:
                    raise BrokenConnectionError("the answer was empty")
            except BrokenConnectionError as error:
                out.flush()
                # A server that gives a byte with each connection must not be asked for ever.
                failures = 1 if out.tell() - before_bytes >= ENOUGH_BYTES else failures + 1
                if failures >= ATTEMPTS:
                    raise FetchError(
                        f"{source.uri}: '{file.path}' cannot be read, {failures} attempts failed, "
                        f"the last one with: {error}",
                        passing=True,
                    ) from None
                logger.info("fetch broke off", extra={"fields": {"why": str(error)[:300]}})
                watch.stop.wait(_pause_seconds(failures))
        out.flush()


def _append(
    source: Source,
    file: RemoteFile,
    out: BinaryIO,
    watch: Supervision,
) -> None:
    # Closed at once when it is not read to its end, so that the server stops sending.
    reading = source.read(file, out.tell())
    with watch.stalls.reading(file.path) as got, contextlib.closing(reading) as pieces:
        for piece in pieces:
            got(len(piece))
            if watch.stop.is_set():
                raise FetchError(f"{source.uri}: stopped", passing=True)
            if len(piece) > file.size_bytes - out.tell():
                raise FetchError(
                    f"{source.uri}: '{file.path}' is larger than the {file.size_bytes} bytes that "
                    "the source lists; the source is broken, or the file just changed"
                )
            out.write(piece)
            watch.progress.add(len(piece))


def _matches(source: Source, file: RemoteFile, partial: Path) -> bool:
    digest = source.digest(file)
    return digest is None or digest_of(partial, digest.kind) == digest.hexadecimal


def _pause_seconds(failures: int) -> float:
    longest: float = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
    share: float = random.uniform(0.5, 1.0)  # noqa: S311  # no secret
    return longest * share

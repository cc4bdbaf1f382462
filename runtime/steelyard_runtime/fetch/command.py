"""`steelyard-runtime fetch URI --to FOLDER [--cache FOLDER]` (docs/contract.md, section 7).

Exit codes: 0 the checkpoint is there, 1 not now (network, space), 2 never (wrong URI, no rights),
130 interrupted.
"""

import argparse
import contextlib
import errno
import hashlib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from steelyard_runtime import logs
from steelyard_runtime.errors import ConfigError, FetchError
from steelyard_runtime.fetch.folder import Folder
from steelyard_runtime.fetch.listing import BrokenConnectionError, Listing, Source

logger = logging.getLogger(__name__)

NOT_NOW, NEVER, INTERRUPTED = 1, 2, 130
TERMINATION_LOG = Path("/dev/termination-log")
FULL = (errno.ENOSPC, errno.EDQUOT)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"fetch: {message}")


def main(arguments: Sequence[str]) -> int:
    """Fetch a checkpoint; returns the exit code."""
    given = build_parser().parse_args(arguments)
    logs.configure(given.log_level)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # A line for each request.
    try:
        fetch(given.uri, given.to, given.cache, os.environ)
    except FetchError as error:
        _tell(str(error))
        return NOT_NOW if error.passing else NEVER
    except OSError as error:
        folder = error.filename or given.to
        reason = "no space is left" if error.errno in FULL else (error.strerror or str(error))
        _tell(f"'{folder}' cannot be written: {reason}")
        return NOT_NOW if error.errno in FULL else NEVER
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _tell(sentence: str) -> None:
    """Say what is wrong, in a container also where the pod's status takes it from."""
    sys.stderr.write(f"steelyard-runtime: fetch: {sentence}\n")
    if TERMINATION_LOG.is_file():
        with contextlib.suppress(OSError):
            TERMINATION_LOG.write_text(sentence, encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `docs/contract.md` section 7 lists the same flags."""
    parser = _Parser(
        prog="steelyard-runtime fetch",
        description="Bring a checkpoint from a hub or a bucket into a folder.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("uri", metavar="URI", help="hf://org/name[/file.gguf][@revision] or s3://bucket/path")
    add("--to", type=Path, required=True, metavar="FOLDER", help="where the engine reads it")
    add("--cache", type=Path, metavar="FOLDER", help="kept and shared; --to gets links to it")
    levels = ("debug", "info", "warning", "error")
    add("--log-level", choices=levels, default="info", metavar="LEVEL")
    return parser


def fetch(uri: str, to: Path, cache: Path | None, environment: Mapping[str, str]) -> None:
    """Make the folder `to` hold the checkpoint.

    Raises:
        FetchError: it cannot.
        OSError: a folder cannot be written.
    """
    source = make_source(uri, environment)
    target = Folder(to)
    with target.locked():
        listing = _list(source, target)
        if listing is None:
            return
        if cache is None:
            target.fetch(source, listing)
        else:
            kept = Folder(cache / _folder_name(source, listing.version))
            with kept.locked():
                if kept.holds(listing.version) is None:
                    kept.fetch(source, listing)
            contents = kept.holds(listing.version)
            assert contents is not None  # It was fetched just now, under the lock.
            target.link(source, contents, kept.root.absolute())
    fields = {"uri": uri, "version": listing.version, "bytes": listing.size_bytes}
    logger.info("the checkpoint is there", extra={"fields": fields})


def make_source(uri: str, environment: Mapping[str, str]) -> Source:
    """Return where the URI points; the libraries are imported only when needed.

    Raises:
        FetchError: no such scheme, or its library is not installed.
    """
    scheme = uri.partition("://")[0]
    try:
        if scheme == "hf":
            from steelyard_runtime.fetch.hub import HubSource

            return HubSource(uri, environment)
        if scheme == "s3":
            from steelyard_runtime.fetch.bucket import BucketSource

            return BucketSource(uri, environment)
    except ImportError as error:
        raise FetchError(
            f"{scheme}:// needs the Python package '{error.name}'; install 'steelyard[sources]'"
        ) from None
    raise FetchError(f"the URI must begin with hf:// or s3://, got '{uri}'")


def _list(source: Source, target: Folder) -> Listing | None:
    """Ask the source; None where the folder is good as it is."""
    pinned = source.pinned_version
    if pinned is not None and target.holds(pinned):
        logger.info("the checkpoint is there already", extra={"fields": {"version": pinned}})
        return None
    try:
        return source.look()
    except BrokenConnectionError as error:
        before = target.contents()
        if before is not None and before.uri == source.uri and target.holds(before.version):
            # A pod that starts again on its node must not depend on somebody else's server.
            fields = {"version": before.version, "why": str(error)}
            logger.warning(
                "the source does not answer, what is there stays", extra={"fields": fields}
            )
            return None
        raise FetchError(f"{source.uri} cannot be read: {error}", passing=True) from None


def _folder_name(source: Source, version: str) -> str:
    """One folder for each version of each checkpoint, with a name that people recognise."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", source.place.rpartition("//")[2])[-80:].strip("-.")
    digest = hashlib.sha256(f"{source.place}\0{version}".encode()).hexdigest()
    return f"{readable}-{digest[:16]}"

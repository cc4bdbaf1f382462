"""`steelyard-runtime fetch URI --to FOLDER [--cache FOLDER]` (docs/contract.md, section 7).

Exit codes: 0 the checkpoint is there, 1 not now (network, space), 2 never (wrong URI, no rights),
130 interrupted.
"""

import argparse
import contextlib
import errno
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from steelyard_runtime import logs
from steelyard_runtime.errors import ConfigError, FetchError
from steelyard_runtime.fetch.credential_hosts import (
    DEFAULT,
    VARIABLE,
    CredentialHosts,
    parse_credential_hosts,
)
from steelyard_runtime.fetch.folder import Folder
from steelyard_runtime.fetch.listing import (
    GIBIBYTE,
    BrokenConnectionError,
    Limits,
    Listing,
    Source,
    check_listing,
)
from steelyard_runtime.fetch.proof import address
from steelyard_runtime.fetch.stalls import listing_in_time
from steelyard_runtime.fetch.telling import NOT_NOW, tell

logger = logging.getLogger(__name__)

NEVER, INTERRUPTED = 2, 130
UNEXPECTED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError)
# How a source is reached, of which a file that has no digest of the source could come differently.
WAYS = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    *("NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    "AWS_CA_BUNDLE",
)
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
        hosts = given.credential_hosts
        if hosts is None:
            hosts = os.environ.get(VARIABLE, DEFAULT)
        fetch(
            given.uri,
            given.to,
            given.cache,
            os.environ,
            credential_hosts=parse_credential_hosts(hosts),
            limits=Limits(given.max_files, given.max_gib * GIBIBYTE),
        )
    except FetchError as error:
        tell(str(error))
        return NOT_NOW if error.passing else NEVER
    except OSError as error:
        folder = error.filename or given.to
        reason = "no space is left" if error.errno in FULL else (error.strerror or str(error))
        tell(f"'{folder}' cannot be written: {reason}")
        return NOT_NOW if error.errno in FULL else NEVER
    except UNEXPECTED as error:
        # From the depths of a library: what it was sent is beyond what it expects.
        logger.debug("the answer could not be read", exc_info=True)
        tell(f"{given.uri} cannot be read: its answer is damaged ({type(error).__name__})")
        return NEVER
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


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
    add(
        "--credential-hosts",
        metavar="HOSTS",
        help="where tokens and signatures may be sent: host, host:port, *.host, http://host for "
        f"plain text, aws for AWS' own; with commas; the variable {VARIABLE}, else {DEFAULT}",
    )
    limits = Limits()
    add("--max-files", type=_count, default=limits.files, metavar="N", help="of the checkpoint")
    gib = limits.total_bytes // GIBIBYTE
    add("--max-gib", type=_count, default=gib, metavar="N", help="of the checkpoint")
    levels = ("debug", "info", "warning", "error")
    add("--log-level", choices=levels, default="info", metavar="LEVEL")
    return parser


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 10 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, got '{text[:40]}'")
    return int(text)


def fetch(
    uri: str,
    to: Path,
    cache: Path | None,
    environment: Mapping[str, str],
    *,
    credential_hosts: CredentialHosts,
    limits: Limits,
) -> None:
    """Make the folder `to` hold the checkpoint.

    Raises:
        FetchError: it cannot.
        OSError: a folder cannot be written.
    """
    target = Folder(to)
    with target.locked(), contextlib.ExitStack() as stack:
        with listing_in_time(uri):
            source = make_source(uri, environment, credential_hosts)
            stack.callback(source.close)
            listing = _list(source, target, limits)
        if listing is None:
            return
        if cache is None:
            target.fetch(source, listing)
        else:
            root = cache / _folder_name(source, listing, environment)
            if root.is_symlink():
                root.unlink()
            kept = Folder(root)
            with kept.locked():
                digests = kept.keep(source, listing)
            target.link(source, listing, kept.root.absolute(), digests)
    fields = {"uri": uri, "version": listing.version, "bytes": listing.size_bytes}
    logger.info("the checkpoint is there", extra={"fields": fields})


def make_source(
    uri: str, environment: Mapping[str, str], credential_hosts: CredentialHosts
) -> Source:
    """Return where the URI points; the libraries are imported only when needed.

    Raises:
        FetchError: no such scheme, its library is not installed, or credentials would go where
            they may not.
    """
    scheme = uri.partition("://")[0]
    try:
        if scheme == "hf":
            from steelyard_runtime.fetch.hub import HubSource

            return HubSource(uri, environment, credential_hosts)
        if scheme == "s3":
            from steelyard_runtime.fetch.bucket import BucketSource

            return BucketSource(uri, environment, credential_hosts)
    except ImportError as error:
        raise FetchError(
            f"{scheme}:// needs the Python package '{error.name}'; install 'steelyard[sources]'"
        ) from None
    raise FetchError(f"the URI must begin with hf:// or s3://, got '{uri}'")


def _list(source: Source, target: Folder, limits: Limits) -> Listing | None:
    """Ask the source; None where the folder is good as it is."""
    pinned = source.pinned_version
    if pinned is not None and _is_good(target, pinned):
        logger.info("the checkpoint is there already", extra={"fields": {"version": pinned}})
        return None
    try:
        listing = source.look()
        check_listing(source.uri, listing, limits)
        return listing
    except BrokenConnectionError as error:
        before = target.contents()
        if before is not None and before.uri == source.uri and _is_good(target, before.version):
            # A pod that starts again on its node must not depend on somebody else's server.
            fields = {"version": before.version, "why": str(error)}
            logger.warning(
                "the source does not answer, what is there stays", extra={"fields": fields}
            )
            return None
        raise FetchError(f"{source.uri} cannot be read: {error}", passing=True) from None


def _is_good(target: Folder, version: str) -> bool:
    contents = target.holds(version)
    return contents is not None and target.proved(contents)


def _folder_name(source: Source, listing: Listing, environment: Mapping[str, str]) -> str:
    """One folder for each content from each source, with a name that people recognise."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", source.place.rpartition("//")[2])[-80:].strip("-.")
    lines = []
    for file in sorted(listing.files, key=lambda file: file.path):
        digest = source.digest(file)
        kind = digest.kind if digest else "tag"
        lines.append(f"{file.path}\0{file.size_bytes}\0{kind}\0{file.tag}")
        if digest is None:
            lines += [f"{name}={environment.get(name, '')}" for name in WAYS]
    return f"{readable}-{address(source.place, lines)[:32]}"

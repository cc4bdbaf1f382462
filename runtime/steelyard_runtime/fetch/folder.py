"""A folder that holds a checkpoint wholly or not at all, whenever a fetch is killed.

Files are collected and checked in a hidden folder beside them and then moved in, the one without
which no loader takes the folder last. A small file says which version the folder holds or is to
hold, so that an interrupted fetch goes on and never mixes two versions.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import msgspec

from steelyard_runtime.errors import FetchError
from steelyard_runtime.fetch.download import Supervision, download
from steelyard_runtime.fetch.listing import GIBIBYTE, LAST, Digest, Listing, RemoteFile, Source
from steelyard_runtime.fetch.progress import Progress
from steelyard_runtime.fetch.proof import digest_of, is_proved
from steelyard_runtime.fetch.stalls import Stalls

logger = logging.getLogger(__name__)

HIDDEN = ".steelyard"
PARALLEL_FILES = 4
POLL_SECONDS = 0.2
SAY_SECONDS = 30.0
READ_ONLY = 0o444


class Contents(msgspec.Struct, frozen=True):
    """What a folder holds, or is to hold."""

    uri: str
    version: str
    whole: bool
    sizes_bytes: dict[str, int]  # by path
    digests: dict[str, Digest] = {}  # by path; what a link's content must hash to


class Folder:
    """One folder that checkpoints are put into."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._hidden = root / HIDDEN
        self._state = self._hidden / "contents.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this node out; waits for one that is at work."""
        self._hidden.mkdir(parents=True, exist_ok=True)
        with (self._hidden / "lock").open("ab") as lock:
            said_seconds = 0.0
            while not _lock(lock.fileno()):
                if time.monotonic() - said_seconds >= SAY_SECONDS:
                    said_seconds = time.monotonic()
                    fields = {"folder": str(self.root)}
                    logger.info(
                        "another process fetches into it, waiting", extra={"fields": fields}
                    )
                time.sleep(POLL_SECONDS)
            yield

    def contents(self) -> Contents | None:
        """Return what the folder says it holds."""
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=Contents)
        except (OSError, msgspec.DecodeError):
            return None

    def holds(self, version: str) -> Contents | None:
        """Return the contents if they are this version, whole and with no file gone."""
        found = self.contents()
        if found is None or not found.whole or found.version != version:
            return None
        whole = all(_size(self.root / path) == size for path, size in found.sizes_bytes.items())
        return found if whole else None

    def proved(self, contents: Contents) -> bool:
        """Whether every link leads to what it led to when it was made."""
        links = (path for path in contents.sizes_bytes if (self.root / path).is_symlink())
        return all(
            is_proved(
                (self.root / path).resolve(), contents.sizes_bytes[path], contents.digests.get(path)
            )
            for path in links
        )

    def keep(self, source: Source, listing: Listing) -> dict[str, Digest]:
        """Make a folder of the cache hold this version; the caller has the lock.

        What lies there is taken only if its content is what the source lists; another version of
        this program, or another process that may write there, can have put it there.

        Returns:
            What each file hashes to, by path.

        Raises:
            FetchError: it cannot be fetched, or there is no space.
            OSError: the folder cannot be written.
        """
        before = self.contents()
        noted = before.digests if before else {}
        with ThreadPoolExecutor(PARALLEL_FILES, "prove") as pool:
            found = pool.map(lambda file: self._proof(source, file, noted), listing.files)
            there = zip(listing.files, found, strict=True)
            proofs = {file.path: proof for file, proof in there if proof is not None}
        self._note(source.uri, listing, whole=False, digests=proofs)
        self.fetch(source, listing)
        for file in listing.files:
            here = self.root / file.path
            if file.path not in proofs:
                proofs[file.path] = source.digest(file) or Digest(
                    "sha256", digest_of(here, "sha256")
                )
                here.chmod(READ_ONLY)
        self._note(source.uri, listing, whole=True, digests=proofs)
        return proofs

    def fetch(self, source: Source, listing: Listing) -> None:
        """Make the folder hold this version; the caller has the lock.

        Raises:
            FetchError: it cannot be fetched, or there is no space.
            OSError: the folder cannot be written.
        """
        self._begin(source.uri, listing)
        missing = [file for file in listing.files if not self._is_here(file)]
        self._check_space(source, missing)
        here_bytes = listing.size_bytes - sum(file.size_bytes for file in missing)
        progress = Progress(listing.size_bytes)
        progress.add(here_bytes)
        stop, stalls = threading.Event(), Stalls(source.uri)
        watch = Supervision(progress, stalls, stop)
        with stalls.watched(), ThreadPoolExecutor(PARALLEL_FILES, "fetch") as pool:
            jobs = [pool.submit(self._download, source, file, watch) for file in missing]
            try:
                for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
                    job.result()
            except FetchError as error:
                stop.set()
                pool.shutdown(cancel_futures=True)
                if not error.passing:
                    self._clear_halves()
                raise
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)
        self._put(source.uri, listing, self._move_in)

    def link(
        self, source: Source, listing: Listing, root: Path, digests: Mapping[str, Digest]
    ) -> None:
        """Make the folder hold links to what another folder holds, and note what that must be."""
        self._begin(source.uri, listing)

        def place(file: RemoteFile) -> None:
            fresh = self._hidden / _name(file)
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(root / file.path)
            self._rename(fresh, file)

        self._put(source.uri, listing, place, digests)

    def _proof(
        self, source: Source, file: RemoteFile, noted: Mapping[str, Digest]
    ) -> Digest | None:
        """Return what a file here hashes to if that is right, else take it away."""
        here, whole = self.root / file.path, self._whole(file)
        self._clear_way(here)
        told = source.digest(file)
        proof = told or noted.get(file.path)
        if is_proved(here, file.size_bytes, proof):
            return proof
        if here.is_symlink() or here.exists():
            fields = {"file": file.path, "folder": str(self.root)}
            logger.warning("what the cache holds is not it, fetched anew", extra={"fields": fields})
            here.unlink()
        if not is_proved(whole, file.size_bytes, told):
            whole.unlink(missing_ok=True)
        return None

    # --- steps ----------------------------------------------------------------------------------

    def _begin(self, uri: str, listing: Listing) -> None:
        """Note what is to come; what is there of another version goes."""
        before = self.contents()
        if before is None or before.version != listing.version or before.uri != uri:
            old = set(before.sizes_bytes) if before else set()
            # Without our note nothing vouches for a file that has the right name and size.
            for path in sorted(old | {file.path for file in listing.files}, key=_is_last)[::-1]:
                (self.root / path).unlink(missing_ok=True)
            self._clear_halves()
        self._note(uri, listing, whole=False)

    def _clear_halves(self) -> None:
        """Take away what was collected for a checkpoint that will not come."""
        for kept in (*self._hidden.glob("*.part"), *self._hidden.glob("*.whole")):
            kept.unlink()

    def _put(
        self,
        uri: str,
        listing: Listing,
        place: Callable[[RemoteFile], None],
        digests: Mapping[str, Digest] | None = None,
    ) -> None:
        for file in sorted(listing.files, key=lambda file: _is_last(file.path)):
            place(file)
        self._note(uri, listing, whole=True, digests=digests)

    def _note(
        self,
        uri: str,
        listing: Listing,
        *,
        whole: bool,
        digests: Mapping[str, Digest] | None = None,
    ) -> None:
        sizes = {file.path: file.size_bytes for file in listing.files}
        self._hidden.mkdir(parents=True, exist_ok=True)
        fresh = self._state.with_suffix(".new")
        made = Contents(uri, listing.version, whole, sizes, dict(digests or {}))
        fresh.write_bytes(msgspec.json.encode(made))
        _to_disk(fresh)
        fresh.replace(self._state)

    def _is_here(self, file: RemoteFile) -> bool:
        moved = _size(self.root / file.path) == file.size_bytes
        return moved or self._whole(file).exists()

    def _download(self, source: Source, file: RemoteFile, watch: Supervision) -> None:
        partial = self._hidden / f"{_name(file)}.part"
        download(source, file, partial, watch)
        _to_disk(partial)
        partial.replace(self._whole(file))
        fields = {"file": file.path, "bytes": file.size_bytes}
        logger.info("fetched", extra={"fields": fields})

    def _move_in(self, file: RemoteFile) -> None:
        whole = self._whole(file)
        if whole.exists():
            self._rename(whole, file)

    def _rename(self, fresh: Path, file: RemoteFile) -> None:
        target = self.root / file.path
        self._clear_way(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.replace(target)

    def _clear_way(self, target: Path) -> None:
        """Take away links in the place of folders, which would lead a file elsewhere."""
        for folder in target.relative_to(self.root).parents:
            way = self.root / folder
            if way != self.root and way.is_symlink():
                way.unlink()

    def _whole(self, file: RemoteFile) -> Path:
        return self._hidden / f"{_name(file)}.whole"

    def _check_space(self, source: Source, missing: Sequence[RemoteFile]) -> None:
        parts = (self._hidden / f"{_name(file)}.part" for file in missing)
        have_bytes = sum(_size(part) or 0 for part in parts)
        need_bytes = sum(file.size_bytes for file in missing) - have_bytes
        free_bytes = shutil.disk_usage(self.root).free
        if need_bytes > free_bytes:
            raise FetchError(
                f"{source.uri} needs {need_bytes / GIBIBYTE:.2f} GiB more in '{self.root}', where "
                f"{free_bytes / GIBIBYTE:.2f} GiB are free",
                passing=True,
            )


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _name(file: RemoteFile) -> str:
    return hashlib.sha256(f"{file.key}\0{file.tag}".encode()).hexdigest()[:32]


def _is_last(path: str) -> bool:
    return path == LAST


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _to_disk(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())

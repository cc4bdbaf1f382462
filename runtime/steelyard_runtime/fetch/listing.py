"""What a source offers: files with their sizes and digests, and which of them a model needs.

A source says how much it is going to send; what it says is bounded here, and held to elsewhere.
"""

import hashlib
import unicodedata
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, Protocol

from steelyard_runtime.errors import FetchError

# Of a folder; a GGUF file is always named itself.
SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")
WEIGHTS = ".safetensors"
# The same weights once more, in another layout.
SKIPPED_FOLDERS = ("original/", "onnx/", "metal/", "openvino/")
LAST = "config.json"  # a folder without it is no checkpoint

# What a source may list at all: the largest public models have some hundred files.
LISTED_FILES = 100_000
LISTED_BYTES = 64 * 1024 * 1024
# File systems' own bounds.
PART_BYTES, PATH_BYTES = 255, 1024
GIBIBYTE = 1024**3

DigestKind = Literal["sha256", "md5", "git"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one checkpoint may have at most."""

    files: int = 10_000
    total_bytes: int = 4096 * GIBIBYTE


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's content must hash to."""

    kind: DigestKind
    hexadecimal: str

    def start(self, size_bytes: int) -> "hashlib._Hash":
        """Return the hash to feed with the content."""
        if self.kind == "sha256":
            return hashlib.sha256()
        if self.kind == "md5":
            return hashlib.md5(usedforsecurity=False)
        return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file."""

    path: str  # in the folder that it is fetched into; relative, with slashes
    key: str  # at the source
    size_bytes: int
    tag: str  # of its content: a fetch that was broken off goes on only with the same


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of one state of a checkpoint."""

    version: str  # equal where all content is
    files: Sequence[RemoteFile]

    @property
    def size_bytes(self) -> int:
        """How much all files have together."""
        return sum(file.size_bytes for file in self.files)


class BrokenConnectionError(Exception):
    """A connection broke or a server was busy; the same may work in a moment."""


class Source(Protocol):
    """Where a checkpoint comes from."""

    uri: str
    place: str  # names hub or bucket, with its scheme, and what is in it, without revision
    pinned_version: str | None  # what `Listing.version` will be, if that cannot change

    def look(self) -> Listing:
        """Ask what there is; always the first call.

        Raises:
            FetchError: nothing is there, or it may not be read.
            BrokenConnectionError: no answer.
        """
        ...

    def read(self, file: RemoteFile, offset_bytes: int) -> Generator[bytes, None, None]:
        """Yield a file's content from an offset on.

        Raises:
            FetchError: it is gone, or may not be read.
            BrokenConnectionError: the connection broke.
        """
        ...

    def digest(self, file: RemoteFile) -> Digest | None:
        """Return what a file's content must hash to, where the source tells."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def choose(uri: str, files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Return the files of a folder that a model needs.

    Raises:
        FetchError: there are no weights, or a path leads out of the folder.
    """
    offered: list[RemoteFile] = []
    for file in files:
        offered.append(file)
        if len(offered) > LISTED_FILES:
            raise FetchError(f"{uri} lists more than {LISTED_FILES} files, which is not a model")
    kept = [file for file in offered if _wanted(file.path)]
    if any(PurePosixPath(file.path).name.startswith("model") for file in kept if _weights(file)):
        # Some publishers add all weights once more in one file of their own format.
        kept = [file for file in kept if not file.path.startswith("consolidated")]
    if not any(_weights(file) for file in kept):
        ggufs = sorted(file.path for file in offered if file.path.endswith(".gguf"))
        hint = f"; name one of its GGUF files: {', '.join(ggufs[:5])}" if ggufs else ""
        raise FetchError(f"{uri} holds no {WEIGHTS} file{hint}")
    for file in kept:
        check_path(uri, file.path)
    return sorted(kept, key=lambda file: file.path)


def check_path(uri: str, path: str) -> None:
    """Refuse a path that leads out of the folder, or that no file can have everywhere.

    Raises:
        FetchError: it does.
    """
    parts = path.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:  # a lone surrogate
        sizes = [0]
    wrong = (
        not path.isprintable()
        or not all(0 < size <= PART_BYTES for size in sizes)
        or sum(sizes) + len(sizes) > PATH_BYTES
        or not {".", "..", ".steelyard"}.isdisjoint(parts)
    )
    if wrong:
        raise FetchError(f"{uri} has a file with the path '{path[:200]}', which is not allowed")


def check_listing(uri: str, listing: Listing, limits: Limits) -> None:
    """Refuse a checkpoint that is too much, or whose files would overwrite each other.

    Raises:
        FetchError: it does.
    """
    if len(listing.files) > limits.files:
        raise FetchError(
            f"{uri} has {len(listing.files)} files; at most {limits.files} are fetched "
            "(--max-files)",
        )
    for file in listing.files:
        check_path(uri, file.path)
        if file.size_bytes < 0:
            raise FetchError(f"{uri} does not say how large '{file.path}' is")
    if listing.size_bytes > limits.total_bytes:
        raise FetchError(
            f"{uri} has {listing.size_bytes / GIBIBYTE:.2f} GiB; at most "
            f"{limits.total_bytes / GIBIBYTE:.0f} GiB are fetched (--max-gib)"
        )
    # Some file systems tell neither case nor the forms of an accented letter apart.
    seen: dict[str, str] = {}
    for file in listing.files:
        name = unicodedata.normalize("NFC", file.path).casefold()
        if name in seen:
            raise FetchError(
                f"{uri} has two files that some file systems take for one, '{seen[name]}' and "
                f"'{file.path}'"
            )
        seen[name] = file.path
    for file in listing.files:
        name = unicodedata.normalize("NFC", file.path).casefold()
        folders = (name[:at] for at, letter in enumerate(name) if letter == "/")
        taken = next((seen[folder] for folder in folders if folder in seen), None)
        if taken is not None:
            raise FetchError(f"{uri} has '{taken}' as a file and, in '{file.path}', as a folder")


def _wanted(path: str) -> bool:
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return path.endswith(SUFFIXES) and not path.startswith(SKIPPED_FOLDERS) and not hidden


def _weights(file: RemoteFile) -> bool:
    return file.path.endswith(WEIGHTS)

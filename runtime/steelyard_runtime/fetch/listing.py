"""What a source offers: files with their sizes and digests, and which of them a model needs."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
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


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's content must hash to."""

    kind: Literal["sha256", "md5", "git"]
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
    place: str  # names hub or bucket and what is in it, without revision
    pinned_version: str | None  # what `Listing.version` will be, if that cannot change

    def look(self) -> Listing:
        """Ask what there is; always the first call.

        Raises:
            FetchError: nothing is there, or it may not be read.
            BrokenConnectionError: no answer.
        """
        ...

    def read(self, file: RemoteFile, offset_bytes: int) -> Iterator[bytes]:
        """Yield a file's content from an offset on.

        Raises:
            FetchError: it is gone, or may not be read.
            BrokenConnectionError: the connection broke.
        """
        ...

    def digest(self, file: RemoteFile) -> Digest | None:
        """Return what the content that was read must hash to, where that is known."""
        ...


def choose(uri: str, files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Return the files of a folder that a model needs.

    Raises:
        FetchError: there are no weights, or a path leads out of the folder.
    """
    offered = list(files)
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
    """Refuse a path that leads out of the folder.

    Raises:
        FetchError: it does.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or parts[0] == ".steelyard":
        raise FetchError(f"{uri} has a file with the path '{path[:200]}', which is not allowed")


def _wanted(path: str) -> bool:
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return path.endswith(SUFFIXES) and not path.startswith(SKIPPED_FOLDERS) and not hidden


def _weights(file: RemoteFile) -> bool:
    return file.path.endswith(WEIGHTS)

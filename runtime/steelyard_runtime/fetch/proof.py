"""Whether a file that lies in a folder is the one that the source lists."""

import hashlib
import stat
from pathlib import Path

from steelyard_runtime.fetch.listing import Digest, DigestKind

PIECE_BYTES = 1024 * 1024


def digest_of(path: Path, kind: DigestKind) -> str:
    """Return the hex digest of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as content:
        found = Digest(kind, "").start(path.stat().st_size)
        while piece := content.read(PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()


def is_proved(path: Path, size_bytes: int, proof: Digest | None) -> bool:
    """Whether a file is a plain one, with this size and this digest; without a digest it is not."""
    try:
        found = path.lstat()
        if proof is None or not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
            return False
        return digest_of(path, proof.kind) == proof.hexadecimal
    except OSError:
        return False


def address(source_place: str, lines: list[str]) -> str:
    """Return what a folder of the cache is called by: where from, and every file's content."""
    said = "\n".join([source_place, *lines])
    return hashlib.sha256(f"steelyard cache 2\n{said}".encode("utf-8", "surrogatepass")).hexdigest()

"""Reads chosen metadata keys of a GGUF file, and nothing else of it.

`gguf.GGUFReader` makes an array view for every one of 98,000 strings and every tensor (2 s); the
HTTP process needs a dozen keys. Tensors are the model loader's business.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

from steelyard_runtime.errors import CheckpointError

GgufValue = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]

MAGIC = b"GGUF"
SUPPORTED_VERSIONS = (2, 3)
# Format characters of the scalar types, by number; 8 is a string and 9 an array.
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING = 8
_ARRAY = 9


def read_gguf_metadata(path: Path, wanted: Callable[[str], bool]) -> dict[str, GgufValue]:
    """Return the metadata whose key `wanted` accepts.

    The format is described in ggml's `docs/gguf.md`; little-endian files of versions 2 and 3 are
    read.

    Raises:
        CheckpointError: the file is missing, truncated, no GGUF file or of another version.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Cursor(data, path).metadata(wanted)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise CheckpointError(f"{path}: is empty; must be a GGUF file") from None


class _Cursor:
    """A position in the mapped file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self._at = 0

    def metadata(self, wanted: Callable[[str], bool]) -> dict[str, GgufValue]:
        if self._data[:4] != MAGIC:
            raise CheckpointError(f"{self._path}: does not start with 'GGUF'; must be a GGUF file")
        self._at = 4
        try:
            version, _, count = self._unpack("<IQQ")
            if version not in SUPPORTED_VERSIONS:
                raise CheckpointError(
                    f"{self._path}: is GGUF version {version}; must be 2 or 3 and little-endian"
                )
            found: dict[str, GgufValue] = {}
            for _ in range(count):
                key = self._string()
                (kind,) = self._unpack("<I")
                if wanted(key):
                    found[key] = self._value(kind)
                else:
                    self._skip(kind)
        except (struct.error, UnicodeDecodeError):
            raise CheckpointError(
                f"{self._path}: its metadata ends early or is damaged near byte {self._at}"
            ) from None
        return found

    def _unpack(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return values

    def _bytes(self) -> bytes:
        (length,) = struct.unpack_from("<Q", self._data, self._at)
        start = self._at + 8
        if start + length > len(self._data):
            raise struct.error
        self._at = start + length
        return self._data[start : self._at]

    def _string(self) -> str:
        return self._bytes().decode()

    def _value(self, kind: int) -> GgufValue:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._unpack("<" + self._scalar(kind))[0]
        item, count = self._unpack("<IQ")
        if item == _STRING:
            return self._strings(count)
        return list(self._unpack(f"<{count}{self._scalar(item)}"))

    def _strings(self, count: int) -> list[str]:
        # The 98,000 strings of a vocabulary and its merges go through here: no calls per string
        # beyond the unavoidable ones.
        data, at, length_of = self._data, self._at, struct.Struct("<Q").unpack_from
        end = len(data)
        strings: list[str] = []
        for _ in range(count):
            start = at + 8
            at = start + length_of(data, at)[0]
            if at > end:
                raise struct.error
            strings.append(data[start:at].decode())
        self._at = at
        return strings

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._bytes()
        elif kind != _ARRAY:
            self._at += struct.calcsize("<" + self._scalar(kind))
        else:
            item, count = self._unpack("<IQ")
            if item == _STRING:
                for _ in range(count):
                    self._bytes()
            else:
                self._at += count * struct.calcsize("<" + self._scalar(item))

    def _scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise CheckpointError(
                f"{self._path}: its metadata is damaged near byte {self._at} (value type {kind})"
            )
        return _SCALARS[kind]

"""Read a GGUF file's metadata and tensor table; the tensors' data is `models/gguf_loader.py`'s.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package's reader
makes several arrays per token and takes two seconds for a vocabulary of 49,152; this takes 0.1.
"""

import mmap
import os
import stat
import struct
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from steelyard_runtime.checkpoint_files.reading import shown
from steelyard_runtime.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)

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
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class TensorEncoding:
    """How ggml stores a type of tensor: `block_bytes` bytes hold `block_values` values."""

    name: str
    block_values: int
    block_bytes: int


# The encodings that can be loaded, by ggml's type id.
ENCODINGS = {
    0: TensorEncoding("F32", 1, 4),
    1: TensorEncoding("F16", 1, 2),
    2: TensorEncoding("Q4_0", 32, 18),
    3: TensorEncoding("Q4_1", 32, 20),
    6: TensorEncoding("Q5_0", 32, 22),
    7: TensorEncoding("Q5_1", 32, 24),
    8: TensorEncoding("Q8_0", 32, 34),
    10: TensorEncoding("Q2_K", 256, 84),
    11: TensorEncoding("Q3_K", 256, 110),
    12: TensorEncoding("Q4_K", 256, 144),
    13: TensorEncoding("Q5_K", 256, 176),
    14: TensorEncoding("Q6_K", 256, 210),
    30: TensorEncoding("BF16", 1, 2),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies. `shape` is in row-major order, the reverse of ggml's."""

    name: str
    shape: tuple[int, ...]
    encoding: TensorEncoding
    offset: int  # from the start of the file
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The metadata and the tensor table of one file."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read and check the header of the GGUF file at `path`.

    Raises:
        CheckpointError: not a GGUF file, truncated, of an unsupported version or encoding.
    """
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) or file.read(4) != MAGIC:
                raise CheckpointError(f"{path} is not a GGUF file: it must start with 'GGUF'")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data).header()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


class _Reader:
    """A cursor over the header's bytes."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.position = len(MAGIC)

    def header(self) -> GGUFHeader:
        (version,) = self.unpack("<I")
        if version not in VERSIONS:
            raise CheckpointError(
                f"{self.path} has GGUF version {version}; must be one of: 2, 3 (little endian)"
            )
        num_tensors, num_pairs = self.unpack("<QQ")
        metadata: dict[str, Any] = {}
        for _ in range(num_pairs):
            key = self.string()
            (kind,) = self.unpack("<I")
            metadata[key] = self.value(kind)
        parts = metadata.get("split.count", 1)
        if not isinstance(parts, int) or parts > 1:
            raise CheckpointError(
                f"{self.path} is one part of {shown(parts)}; merge them into one file"
            )
        raw = [self.tensor() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise CheckpointError(f"{self.path}: general.alignment must be positive")
        start = -(-self.position // alignment) * alignment
        tensors = {name: self.entry(name, shape, kind, start + at) for name, shape, kind, at in raw}
        held_bytes = sum(entry.num_bytes for entry in tensors.values())
        if len(tensors) != len(raw) or held_bytes > len(self.data):
            raise CheckpointError(
                f"{self.path}: its tensors lie over each other, or two have one name; they have "
                f"{held_bytes} bytes together, the file {len(self.data)}"
            )
        return GGUFHeader(self.path, metadata, tensors)

    def entry(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorEntry:
        encoding = ENCODINGS.get(kind)
        if encoding is None:
            allowed = ", ".join(known.name for known in ENCODINGS.values())
            raise CheckpointError(
                f"{self.path}: tensor '{shown(name)}' has the ggml type {_type_name(kind)}; "
                f"must be one of: {allowed}"
            )
        if not shape or shape[-1] % encoding.block_values:
            raise CheckpointError(
                f"{self.path}: tensor '{shown(name)}' has the shape {list(shape)}; "
                f"rows of {encoding.name} must be multiples of {encoding.block_values}"
            )
        num_bytes = prod(shape) // encoding.block_values * encoding.block_bytes
        if offset + num_bytes > len(self.data):
            raise CheckpointError(
                f"{self.path} is truncated: tensor '{shown(name)}' ends at byte "
                f"{offset + num_bytes}, the file at {len(self.data)}"
            )
        return TensorEntry(name, shape, encoding, offset, num_bytes)

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string()
        (dimensions,) = self.unpack("<I")
        if dimensions > _MAX_DIMENSIONS:
            raise CheckpointError(
                f"{self.path}: tensor '{shown(name)}' has {dimensions} dimensions; at most 4 are "
                "allowed"
            )
        shape = self.unpack(f"<{dimensions}Q")
        kind, offset = self.unpack("<IQ")
        return name, tuple(reversed(shape)), kind, offset

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        return self.unpack("<" + self.scalar_code(kind))[0]

    def array(self) -> list[Any]:
        kind, count = self.unpack("<IQ")
        if kind == _STRING:
            return self.strings(count)
        code = self.scalar_code(kind)
        size = struct.calcsize("<" + code)
        if code == "?":
            return [byte != 0 for byte in self.take(count)]
        values = array(code.replace("Q", "L").replace("q", "l"))
        if values.itemsize != size:  # pragma: no cover - only where a C long has 4 bytes
            return list(self.unpack(f"<{count}{code}"))
        values.frombytes(self.take(count * size))
        return values.tolist()

    def strings(self, count: int) -> list[str]:
        # Not `string()` in a loop: this runs once per token and per merge.
        length_at = struct.Struct("<Q").unpack_from
        data, position, end = self.data, self.position, len(self.data)
        result: list[str] = []
        try:
            for _ in range(count):
                start = position + 8
                position = start + length_at(data, position)[0]
                if position > end:
                    raise self.truncated()
                result.append(data[start:position].decode("utf-8", "surrogateescape"))
        except struct.error:
            raise self.truncated() from None
        self.position = position
        return result

    def string(self) -> str:
        (length,) = self.unpack("<Q")
        return self.take(length).decode("utf-8", "surrogateescape")

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise self.truncated()
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def unpack(self, pattern: str) -> tuple[Any, ...]:
        return struct.unpack(pattern, self.take(struct.calcsize(pattern)))

    def scalar_code(self, kind: int) -> str:
        code = _SCALARS.get(kind)
        if code is None:
            raise CheckpointError(
                f"{self.path}: unknown metadata type {kind} at byte {self.position}; "
                "the header is damaged"
            )
        return code

    def truncated(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is truncated: its header goes on after its last byte ({len(self.data)})"
        )


def _type_name(kind: int) -> str:
    """Return the name of a ggml type that cannot be read, for users, or its number."""
    from gguf import GGMLQuantizationType

    known: dict[int, str] = {int(one): one.name for one in GGMLQuantizationType}
    return known.get(kind, str(kind))

"""Read the tensor tables of a Hugging Face directory, one file or sharded; data stays on disk."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from steelyard_runtime.checkpoint_files.reading import parse_json, read_json, shown
from steelyard_runtime.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Bytes per value of the data types that can be loaded.
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_DIMENSIONS = 8
_TOO_LARGE = 2**62


@dataclass(frozen=True, slots=True)
class SafetensorsEntry:
    """Where one tensor lies; `offset` counts from the start of its file."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


def weight_files(directory: Path) -> list[Path]:
    """Return the weight files of a Hugging Face directory in a stable order.

    Raises:
        CheckpointError: there are none, the index is damaged, or a shard is missing.
    """
    index_path = directory / INDEX
    if index_path.exists():
        weight_map = read_json(index_path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index_path} has no 'weight_map' that names the weight files")
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{index_path}: 'weight_map' must name a file for each tensor")
        names = sorted(set(weight_map.values()))
    elif (directory / SINGLE).is_file():
        names = [SINGLE]
    else:
        raise CheckpointError(f"{directory} has no weights: expected {SINGLE} or {INDEX}")
    for name in names:
        if Path(name).name != name or not _is_file(directory / name):
            raise CheckpointError(
                f"{index_path} names '{shown(name)}', which is not in {directory}"
            )
    return [directory / name for name in names]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def read_safetensors_headers(directory: Path) -> dict[str, SafetensorsEntry]:
    """Read and check the tensor tables of all weight files of `directory`.

    Raises:
        CheckpointError: a file is missing, truncated or damaged.
    """
    entries: dict[str, SafetensorsEntry] = {}
    for path in weight_files(directory):
        entries.update(_read_header(path))
    return entries


def _read_header(path: Path) -> dict[str, SafetensorsEntry]:
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or length > min(file_bytes - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(
                    f"{path} is truncated or not a safetensors file: its header should have "
                    f"{length} bytes, the file has {file_bytes}"
                )
            table = parse_json(path, file.read(length), ": its header")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} is not a safetensors file: its header is not an object")
    entries = {
        name: _entry(path, name, fields, 8 + length, file_bytes)
        for name, fields in table.items()
        if name != "__metadata__"
    }
    held_bytes = sum(entry.num_bytes for entry in entries.values())
    if held_bytes > file_bytes - 8 - length:
        raise CheckpointError(
            f"{path}: its tensors lie over each other; they have {held_bytes} bytes together, the "
            f"file holds {file_bytes - 8 - length}"
        )
    return entries


def _entry(path: Path, name: str, fields: Any, start: int, file_bytes: int) -> SafetensorsEntry:
    if not isinstance(fields, dict):
        fields = {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if (
        not isinstance(dtype, str)
        or not _are_counts(shape)
        or not _are_counts(offsets)
        or len(shape) > _MAX_DIMENSIONS
        or len(offsets) != 2
    ):
        raise CheckpointError(f"{path}: the entry of tensor '{shown(name)}' is damaged")
    begin, end = offsets
    if start + end > file_bytes:
        raise CheckpointError(
            f"{path} is truncated: tensor '{shown(name)}' ends at byte {start + end}, "
            f"the file at {file_bytes}"
        )
    value_bytes = DTYPE_BYTES.get(dtype)
    wrong = value_bytes is not None and prod(shape) * value_bytes != end - begin
    if begin > end or wrong:
        raise CheckpointError(
            f"{path}: tensor '{shown(name)}' of shape {shape} and type {shown(dtype)} must have "
            f"{prod(shape) * (value_bytes or 1)} bytes, its entry says {end - begin}"
        )
    return SafetensorsEntry(name, path, dtype, tuple(shape), start + begin, end - begin)


def _are_counts(given: Any) -> bool:
    """Whether it is a list of whole numbers that a file can have."""
    return isinstance(given, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and 0 <= one < _TOO_LARGE
        for one in given
    )

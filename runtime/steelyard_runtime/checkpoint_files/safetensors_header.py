"""Read the tensor tables of a Hugging Face directory, one file or sharded; data stays on disk."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from steelyard_runtime.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Bytes per value of the data types that can be loaded.
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U8": 1}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


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
        names = sorted({str(name) for name in weight_map.values()})
    elif (directory / SINGLE).exists():
        names = [SINGLE]
    else:
        raise CheckpointError(f"{directory} has no weights: expected {SINGLE} or {INDEX}")
    for name in names:
        if Path(name).name != name or not (directory / name).is_file():
            raise CheckpointError(f"{index_path} names '{name}', which is not in {directory}")
    return [directory / name for name in names]


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
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if file_bytes < 8 or length > min(file_bytes - 8, _MAX_HEADER_BYTES):
            raise CheckpointError(
                f"{path} is truncated or not a safetensors file: its header should have "
                f"{length} bytes, the file has {file_bytes}"
            )
        try:
            table = json.loads(file.read(length))
        except ValueError:
            raise CheckpointError(
                f"{path} is not a safetensors file: its header is not JSON"
            ) from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} is not a safetensors file: its header is not an object")
    return {
        name: _entry(path, name, fields, 8 + length, file_bytes)
        for name, fields in table.items()
        if name != "__metadata__"
    }


def _entry(path: Path, name: str, fields: Any, start: int, file_bytes: int) -> SafetensorsEntry:
    try:
        dtype = str(fields["dtype"])
        shape = tuple(int(size) for size in fields["shape"])
        begin, end = (int(at) for at in fields["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: the entry of tensor '{name}' is damaged") from None
    if start + end > file_bytes:
        raise CheckpointError(
            f"{path} is truncated: tensor '{name}' ends at byte {start + end}, "
            f"the file at {file_bytes}"
        )
    value_bytes = DTYPE_BYTES.get(dtype)
    if value_bytes is not None and (begin < 0 or prod(shape) * value_bytes != end - begin):
        raise CheckpointError(
            f"{path}: tensor '{name}' of shape {list(shape)} and type {dtype} must have "
            f"{prod(shape) * value_bytes} bytes, its entry says {end - begin}"
        )
    return SafetensorsEntry(name, path, dtype, shape, start + begin, end - begin)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Raises:
        CheckpointError: the file cannot be read or is not a JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content

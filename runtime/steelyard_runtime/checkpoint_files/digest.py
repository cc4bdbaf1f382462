"""The digest of a checkpoint: SHA-256 over its files, each hashed once per machine.

The cache trusts (path, size, mtime): a file that is changed in place without either is not seen.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from steelyard_runtime.checkpoint_files.safetensors_header import weight_files
from steelyard_runtime.errors import CheckpointError


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where Steelyard keeps what it can make again."""
    base = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "steelyard"


def model_digest(path: Path, cache: Path | None = None) -> str:
    """Return the hex digest of what makes the model compute what it computes.

    That is the GGUF file, or config.json and the weight files of a Hugging Face directory. Where
    the files lie does not matter.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    files = [path] if path.is_file() else [path / "config.json", *weight_files(path)]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{file_digest(file, cache)}\0".encode())
    return total.hexdigest()


def file_digest(path: Path, cache: Path | None = None) -> str:
    """Return the SHA-256 of a file in hex, from the cache where the file has not changed."""
    try:
        real = path.resolve(strict=True)
        stat = real.stat()
        key = f"{real}\0{stat.st_size}\0{stat.st_mtime_ns}"
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        entry = (cache or cache_directory()) / "digests" / f"{name}.json"
        known = _read(entry, key)
        if known:
            return known
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    _write(entry, key, digest)
    return digest


def _read(entry: Path, key: str) -> str | None:
    try:
        content = json.loads(entry.read_bytes())
    except (OSError, ValueError):
        return None
    if isinstance(content, dict) and content.get("key") == key:
        digest = content.get("sha256")
        return digest if isinstance(digest, str) else None
    return None


def _write(entry: Path, key: str, digest: str) -> None:
    """Write by rename, so that two workers that start together never read half an entry."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=entry.parent, delete=False) as file:
            json.dump({"key": key, "sha256": digest}, file)
        os.replace(file.name, entry)  # noqa: PTH105 - an atomic rename, named as such
    except OSError:
        return  # A read-only home: hash again next time.

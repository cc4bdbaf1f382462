"""A checkpoint's digest follows its content, and each file is hashed once."""

import hashlib
import os
from pathlib import Path

import pytest

from steelyard_runtime.checkpoint_files.digest import cache_directory, file_digest, model_digest
from steelyard_runtime.errors import CheckpointError


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


def test_a_file_digest_is_its_sha256(model: Path, cache: Path) -> None:
    """The digest is the plain SHA-256 of the content."""
    assert file_digest(model, cache) == hashlib.sha256(b"weights").hexdigest()


def test_an_unchanged_file_is_not_read_again(model: Path, cache: Path) -> None:
    """The cache answers for a file of the same path, size and modification time."""
    before, stat = file_digest(model, cache), model.stat()
    model.write_bytes(b"WEIGHTS")
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert file_digest(model, cache) == before


def test_a_changed_file_is_hashed_again(model: Path, cache: Path) -> None:
    """Another modification time makes another cache key."""
    before, stat = file_digest(model, cache), model.stat()
    model.write_bytes(b"WEIGHTS")
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))

    assert file_digest(model, cache) != before


def test_a_damaged_cache_entry_is_ignored(model: Path, cache: Path) -> None:
    """Half an entry, as a full disk leaves it, does not count."""
    expected = file_digest(model, cache)
    (entry,) = cache.rglob("*.json")
    entry.write_text('{"key": ')

    assert file_digest(model, cache) == expected


def test_a_cache_that_cannot_be_written_is_no_error(model: Path, tmp_path: Path) -> None:
    """Without a writable cache the file is hashed each time."""
    blocked = tmp_path / "file"
    blocked.touch()

    assert file_digest(model, blocked) == hashlib.sha256(b"weights").hexdigest()


def test_the_place_of_a_checkpoint_does_not_matter(tmp_path: Path, cache: Path) -> None:
    """Two workers that keep the same directory elsewhere have the same digest."""
    digests = set()
    for place in ("here", "there"):
        directory = tmp_path / place
        directory.mkdir()
        (directory / "config.json").write_text("{}")
        (directory / "model.safetensors").write_bytes(b"x")
        digests.add(model_digest(directory, cache))

    assert len(digests) == 1


def test_a_missing_file_is_one_sentence(tmp_path: Path, cache: Path) -> None:
    """The error names the file."""
    with pytest.raises(CheckpointError, match="cannot be read"):
        file_digest(tmp_path / "gone", cache)


def test_the_cache_follows_xdg() -> None:
    """`XDG_CACHE_HOME` moves the cache."""
    assert cache_directory({"XDG_CACHE_HOME": "/elsewhere"}) == Path("/elsewhere/steelyard")

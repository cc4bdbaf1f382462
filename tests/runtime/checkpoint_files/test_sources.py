"""The `--model` URI names a local file or directory, or the error says what is allowed."""

from pathlib import Path

import pytest

from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.errors import CheckpointError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a model.gguf"
    path.touch()
    return path


def test_a_path_is_itself(file: Path) -> None:
    """A plain path is taken as it is."""
    assert resolve(str(file)) == file


def test_a_file_uri_is_its_path(file: Path) -> None:
    """`file://` URIs are percent-decoded."""
    assert resolve(file.as_uri()) == file


def test_a_package_uri_is_a_file_of_the_distribution() -> None:
    """`package://` finds a file of an installed distribution without importing it."""
    assert resolve("package://pytest/pytest/__init__.py").name == "__init__.py"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "must be a path, file:///path or package://distribution/file"),
        ("/nowhere/model.gguf", "there is no file or directory at /nowhere/model.gguf"),
        ("hf://org/name", "has the scheme 'hf'; it must be a path"),
        ("file://host/path", "must name an absolute path"),
        ("package://no-such-dist/x", "the Python package 'no-such-dist' is not installed"),
        ("package://pytest/no/such.gguf", "the package 'pytest' has no file 'no/such.gguf'"),
        ("package://pytest", "must have the form package://distribution/file"),
        ("package://pytest/../x", "must have the form package://distribution/file"),
    ],
)
def test_a_wrong_uri_is_one_sentence(uri: str, message: str) -> None:
    """What is wrong, and what is allowed."""
    with pytest.raises(CheckpointError) as raised:
        resolve(uri)

    assert message in str(raised.value)

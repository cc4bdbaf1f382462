"""Turn the `--model` URI into a path. What lies there is the business of `model_config.py`."""

from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from steelyard_runtime.checkpoint_files.reading import shown
from steelyard_runtime.errors import CheckpointError

ALLOWED = "a path, file:///path or package://distribution/file"


def resolve(uri: str) -> Path:
    """Return the local path that `uri` names: a GGUF file or a Hugging Face directory.

    Raises:
        CheckpointError: the scheme is unknown, the package is not installed, or nothing is there.
    """
    scheme, separator, rest = uri.partition("://")
    if not uri or not uri.isprintable():
        raise CheckpointError(f"model must be {ALLOWED}, got '{shown(uri)}'")
    if not separator:
        path = _plain_path(uri)
    elif scheme == "file":
        path = _file_path(uri)
    elif scheme == "package":
        path = _package_path(uri, rest)
    else:
        fetch = " (`steelyard-runtime fetch` brings it into one)" if scheme in ("hf", "s3") else ""
        raise CheckpointError(
            f"model '{uri}' has the scheme '{scheme}'; it must be {ALLOWED}{fetch}"
        )
    try:
        if not path.exists():
            raise CheckpointError(
                f"model '{shown(uri)}': there is no file or directory at {shown(str(path))}"
            )
        # A device has no end, and a pipe waits for whoever writes.
        if not path.is_file() and not path.is_dir():
            raise CheckpointError(f"model '{uri}': {path} is neither a file nor a directory")
        return path.resolve()
    except OSError as error:
        raise CheckpointError(f"model '{shown(uri)}' cannot be read: {error.strerror}") from None


def _plain_path(uri: str) -> Path:
    try:
        return Path(uri).expanduser()
    except RuntimeError:
        raise CheckpointError(f"model '{shown(uri)}' names no user's home") from None


def _file_path(uri: str) -> Path:
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets in a host
        parts = urlsplit("file:")
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise CheckpointError(f"model '{shown(uri)}' must name an absolute path: file:///path")
    return Path(path)


def _package_path(uri: str, rest: str) -> Path:
    name, _, inside = rest.partition("/")
    # An absolute path would stand for itself, wherever the package is.
    if not name or not inside or ".." in Path(inside).parts or inside.startswith("/"):
        raise CheckpointError(
            f"model '{shown(uri)}' must have the form package://distribution/file"
        )
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise CheckpointError(
            f"model '{uri}': the Python package '{name}' is not installed; "
            f"install it or give another model ({ALLOWED})"
        ) from None
    path = Path(str(distribution.locate_file(inside)))
    try:
        found = path.exists()
    except OSError:
        found = False
    if not found:
        raise CheckpointError(f"model '{uri}': the package '{name}' has no file '{shown(inside)}'")
    return path

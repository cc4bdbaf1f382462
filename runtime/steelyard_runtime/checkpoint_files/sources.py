"""Turn the `--model` URI into a path. What lies there is the business of `model_config.py`."""

from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from steelyard_runtime.errors import CheckpointError

ALLOWED = "a path, file:///path or package://distribution/file"


def resolve(uri: str) -> Path:
    """Return the local path that `uri` names: a GGUF file or a Hugging Face directory.

    Raises:
        CheckpointError: the scheme is unknown, the package is not installed, or nothing is there.
    """
    scheme, separator, rest = uri.partition("://")
    if not uri:
        raise CheckpointError(f"model must be {ALLOWED}, got an empty string")
    if not separator:
        path = Path(uri).expanduser()
    elif scheme == "file":
        path = _file_path(uri)
    elif scheme == "package":
        path = _package_path(uri, rest)
    else:
        fetch = " (`steelyard-runtime fetch` brings it into one)" if scheme in ("hf", "s3") else ""
        raise CheckpointError(
            f"model '{uri}' has the scheme '{scheme}'; it must be {ALLOWED}{fetch}"
        )
    if not path.exists():
        raise CheckpointError(f"model '{uri}': there is no file or directory at {path}")
    return path.resolve()


def _file_path(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise CheckpointError(f"model '{uri}' must name an absolute path: file:///path")
    return Path(unquote(parts.path))


def _package_path(uri: str, rest: str) -> Path:
    name, _, inside = rest.partition("/")
    if not name or not inside or ".." in Path(inside).parts:
        raise CheckpointError(f"model '{uri}' must have the form package://distribution/file")
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise CheckpointError(
            f"model '{uri}': the Python package '{name}' is not installed; "
            f"install it or give another model ({ALLOWED})"
        ) from None
    path = Path(str(distribution.locate_file(inside)))
    if not path.exists():
        raise CheckpointError(f"model '{uri}': the package '{name}' has no file '{inside}'")
    return path

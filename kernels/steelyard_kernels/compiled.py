"""Libraries compiled on first use: once per machine, compiler and version of the sources."""

import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

TIMEOUT_SECONDS = 300
# A folder with libraries that were compiled ahead of time; nothing is compiled where it is set.
PREBUILT_VARIABLE = "STEELYARD_KERNELS_DIR"


class BuildError(RuntimeError):
    """There is no compiler, or it refused the sources."""


def cached(
    name: str, key: str, compile_to: Callable[[Path], None], cache: Path | None = None
) -> Path:
    """Return the library `name` under `key`, compiling it where the cache has none.

    Two processes that start together compile once: the second waits for the first.

    Args:
        name: the file's name.
        key: of everything that the result depends on; see `digest`.
        compile_to: writes the library to a path.
        cache: the folder of all keys; the user's cache if not given.

    Raises:
        BuildError: the compiler failed, or the cache cannot be written.
    """
    try:
        folder = (cache or _cache_directory()) / key
        library = folder / name
        if library.exists():
            return library
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not library.exists():
                compile_to(library)
    except OSError as error:
        raise BuildError(f"the kernel cache cannot be used: {error}") from error
    return library


def run_compiler(command: Sequence[str], library: Path) -> None:
    """Run `command` with `-o FILE` and put the result in place of `library` at once.

    Raises:
        BuildError: the compiler refused the sources, or took too long.
    """
    compiler = command[0]
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        try:
            subprocess.run(
                [*command, "-o", str(made)],
                check=True,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.CalledProcessError as error:
            message = (error.stderr or error.stdout).decode(errors="replace")
            raise BuildError(f"{compiler} refused the kernels: {message[:2000]}") from None
        except subprocess.TimeoutExpired:
            raise BuildError(f"{compiler} took more than {TIMEOUT_SECONDS} s") from None
        made.rename(library)


def digest(sources: Path, compiler: str, *rest: str) -> str:
    """Return the key of a folder of sources, the compiler's version and what else counts."""
    result = hashlib.sha256()
    for source in sorted(sources.iterdir()):
        result.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True).stdout
    result.update(repr(rest).encode() + version)
    return result.hexdigest()[:32]


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "steelyard" / "kernels"

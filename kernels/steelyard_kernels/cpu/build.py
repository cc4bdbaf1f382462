"""Compile the C++ sources once per machine, compiler and version of the sources."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "cpu"
ENTRY = "abi.cpp"
# OpenMP by its soname: the process already has torch's copy, so both share one pool of threads.
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp")
TIMEOUT_SECONDS = 300


class BuildError(RuntimeError):
    """There is no compiler, or it refused the sources."""


def cached_library(cache: Path | None = None) -> Path:
    """Return the compiled library, compiling it where the cache has none.

    Two processes that start together compile once: the second waits for the first.

    Raises:
        BuildError: there is no compiler, it failed, or the cache cannot be written.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise BuildError("there is no C++ compiler (g++ or clang++)")
    try:
        folder = (cache or _cache_directory()) / _key(compiler)
        library = folder / "libsteelyard_cpu.so"
        if library.exists():
            return library
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not library.exists():
                compile_library(compiler, library)
    except OSError as error:
        raise BuildError(f"the kernel cache cannot be used: {error}") from error
    return library


def compile_library(compiler: str, library: Path, march: str = "native") -> None:
    """Compile the sources for one kind of CPU, in place of what was there.

    Raises:
        BuildError: the compiler refused them, or took too long.
    """
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        command = [compiler, f"-march={march}", *FLAGS, str(SOURCES / ENTRY), "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_SECONDS)
        except subprocess.CalledProcessError as error:
            message = error.stderr.decode(errors="replace")
            raise BuildError(f"{compiler} refused the kernels: {message[:2000]}") from None
        except subprocess.TimeoutExpired:
            raise BuildError(f"{compiler} took more than {TIMEOUT_SECONDS} s") from None
        made.rename(library)


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "steelyard" / "kernels"


def _key(compiler: str) -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True).stdout
    digest.update(repr((FLAGS, platform.machine(), _cpu())).encode() + version)
    return digest.hexdigest()[:32]


def _cpu() -> str:
    """Return what `-march=native` depends on: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))

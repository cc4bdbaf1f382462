"""Compile the C++ sources for this machine's CPU."""

import os
import platform
import shutil
from pathlib import Path

from steelyard_kernels.compiled import BuildError, cached, digest, run_compiler

SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "cpu"
ENTRY = "abi.cpp"
# OpenMP by its soname: the process already has torch's copy, so both share one pool of threads.
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp")


def cached_library(cache: Path | None = None) -> Path:
    """Return the compiled library, compiling it where the cache has none.

    Raises:
        BuildError: there is no compiler, it failed, or the cache cannot be written.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise BuildError("there is no C++ compiler (g++ or clang++)")
    try:
        key = digest(SOURCES, compiler, *FLAGS, platform.machine(), _cpu())
    except OSError as error:
        raise BuildError(f"the C++ compiler {compiler} cannot be run: {error}") from error
    return cached(
        "libsteelyard_cpu.so", key, lambda library: compile_library(compiler, library), cache
    )


def compile_library(compiler: str, library: Path, march: str = "native") -> None:
    """Compile the sources for one kind of CPU, in place of what was there.

    Raises:
        BuildError: the compiler refused them, or took too long.
    """
    run_compiler([compiler, f"-march={march}", *FLAGS, str(SOURCES / ENTRY)], library)


def _cpu() -> str:
    """Return what `-march=native` depends on: a cache may be shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))

"""Compile the CUDA sources for one kind of GPU, or take a library that was compiled ahead."""

import os
import shutil
from pathlib import Path

from steelyard_kernels.compiled import (
    PREBUILT_VARIABLE,
    BuildError,
    cached,
    digest,
    run_compiler,
)

SOURCES = Path(__file__).resolve().parent.parent / "csrc" / "cuda"
ENTRY = "abi.cu"
NAME = "libsteelyard_cuda.so"
FLAGS = ("-O3", "-std=c++17", "--shared", "-Xcompiler", "-fPIC", "-cudart", "static")
# The oldest GPU whose instructions the kernels use (cp.async, bf16 on tensor cores): Ampere.
OLDEST = (8, 0)
HOPPER = (9, 0)


def architecture_flags(capability: tuple[int, int]) -> tuple[str, ...]:
    """Return nvcc's flags for a device's compute capability.

    Hopper's own instructions need the target sm_90a, which no other device runs.
    """
    name = f"{capability[0]}{capability[1]}" + ("a" if capability == HOPPER else "")
    return ("-gencode", f"arch=compute_{name},code=sm_{name}")


def find_library(capability: tuple[int, int], cache: Path | None = None) -> Path:
    """Return the library for a device, compiling it where the cache has none.

    Args:
        capability: the device's compute capability, such as (9, 0).
        cache: the folder of all versions; the user's cache if not given.

    Raises:
        BuildError: the device is too old, there is no compiler, or it failed.
    """
    if capability < OLDEST:
        raise BuildError(
            f"the CUDA kernels need compute capability {OLDEST[0]}.{OLDEST[1]}, "
            f"the device has {capability[0]}.{capability[1]}"
        )
    if folder := os.environ.get(PREBUILT_VARIABLE):
        library = Path(folder) / NAME
        if not library.is_file():
            raise BuildError(f"{PREBUILT_VARIABLE}={folder} holds no {NAME}")
        return library
    compiler = find_compiler()
    flags = architecture_flags(capability)
    try:
        key = digest(SOURCES, compiler, *FLAGS, *flags)
    except OSError as error:
        raise BuildError(f"the CUDA compiler {compiler} cannot be run: {error}") from error
    return cached(NAME, key, lambda library: compile_library(library, compiler, flags), cache)


def find_compiler() -> str:
    """Return the path of nvcc: from CUDA_HOME, PATH or the usual folder.

    Raises:
        BuildError: there is none.
    """
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    for found in (shutil.which("nvcc", path=f"{home}/bin"), shutil.which("nvcc")):
        if found:
            return found
    raise BuildError("there is no CUDA compiler (nvcc, looked for in CUDA_HOME and PATH)")


def compile_library(
    library: Path, compiler: str, flags: tuple[str, ...], extra: tuple[str, ...] = ()
) -> None:
    """Compile the sources, in place of what was there.

    Raises:
        BuildError: the compiler refused them, or took too long.
    """
    run_compiler([compiler, *flags, *FLAGS, *extra, str(SOURCES / ENTRY)], library)

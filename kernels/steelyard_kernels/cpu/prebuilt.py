"""Libraries that were compiled ahead of time, for machines without a compiler (images).

`python -m steelyard_kernels.cpu.prebuilt --to DIR` compiles one library for each level of
instructions; with STEELYARD_KERNELS_DIR=DIR the best one that this CPU can run is loaded.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from steelyard_kernels.compiled import PREBUILT_VARIABLE, BuildError
from steelyard_kernels.cpu.build import compile_library

# The best first: level, and what of /proc/cpuinfo it needs beyond the levels below. The levels are
# those of the x86-64 psABI, which GCC and Clang take as -march.
LEVELS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "x86-64-v4",
        frozenset(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "fma")),
    ),
    ("x86-64-v3", frozenset(("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"))),
)


def prebuilt_library(folder: Path, cpu_flags: frozenset[str] | None = None) -> Path:
    """Return the best library in a folder that this CPU can run.

    Args:
        folder: where `main` put them.
        cpu_flags: what the CPU can do, in /proc/cpuinfo's words; this machine's if not given.

    Raises:
        BuildError: the folder has none for this CPU.
    """
    flags = _cpu_flags() if cpu_flags is None else cpu_flags
    for level, needed in LEVELS:
        library = folder / _name(level)
        if needed <= flags and library.is_file():
            return library
    levels = ", ".join(level for level, _ in LEVELS)
    raise BuildError(
        f"{PREBUILT_VARIABLE}={folder} holds no library that this CPU can run ({levels})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile all levels into a folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m steelyard_kernels.cpu.prebuilt")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR")
    folder: Path = parser.parse_args(arguments).to
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    try:
        if compiler is None:
            raise BuildError("there is no C++ compiler (g++ or clang++)")
        folder.mkdir(parents=True, exist_ok=True)
        for level, _ in LEVELS:
            compile_library(compiler, folder / _name(level), march=level)
            sys.stdout.write(f"{folder / _name(level)}\n")
    except (BuildError, OSError) as error:
        sys.stderr.write(f"prebuilt: {error}\n")
        return 1
    return 0


def _name(level: str) -> str:
    return f"libsteelyard_cpu-{level}.so"


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


if __name__ == "__main__":
    sys.exit(main())

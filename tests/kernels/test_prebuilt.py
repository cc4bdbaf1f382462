"""Kernels compiled ahead of time: every level compiles, and the best that runs here is taken."""

import ctypes
import shutil
from pathlib import Path

import pytest

from steelyard_kernels.compiled import BuildError
from steelyard_kernels.cpu.prebuilt import LEVELS, main, prebuilt_library

V3, V4 = LEVELS[1][1], LEVELS[0][1] | LEVELS[1][1]


def test_every_level_compiles_and_this_machine_runs_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an image is built with is loaded without a compiler."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler")

    assert main(["--to", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(LEVELS)
    assert ctypes.CDLL(str(prebuilt_library(tmp_path))).steelyard_panel() in (16, 32)


def test_the_best_level_that_the_cpu_can_run_is_taken(tmp_path: Path) -> None:
    """An illegal instruction would end the worker."""
    for level, _ in LEVELS:
        (tmp_path / f"libsteelyard_cpu-{level}.so").touch()

    assert prebuilt_library(tmp_path, V4).name == "libsteelyard_cpu-x86-64-v4.so"
    assert prebuilt_library(tmp_path, V3).name == "libsteelyard_cpu-x86-64-v3.so"
    with pytest.raises(BuildError, match="no library that this CPU can run"):
        prebuilt_library(tmp_path, frozenset(("sse2",)))

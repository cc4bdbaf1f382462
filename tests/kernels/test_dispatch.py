"""Which implementation runs follows from the device, the sizes and one variable."""

import logging
from pathlib import Path

import pytest
import torch

from steelyard_kernels import dispatch
from steelyard_kernels.compiled import BuildError
from steelyard_kernels.cpu import build
from steelyard_kernels.cpu.library import HEAD_DIMS
from steelyard_kernels.dispatch import select_ops

CPU = torch.device("cpu")
F32 = torch.float32


@pytest.mark.parametrize(
    ("dtype", "head_dim", "group", "variable", "name"),
    [
        (F32, 64, 3, {}, "cpu"),
        (F32, 64, 3, {"STEELYARD_KERNELS": "cpu"}, "cpu"),
        (F32, 64, 3, {"STEELYARD_KERNELS": "reference"}, "reference"),
        (torch.bfloat16, 64, 3, {}, "reference"),
        (F32, 24, 3, {}, "reference"),
        (F32, 64, 17, {}, "reference"),
    ],
    ids=["float32", "asked", "turned-off", "bfloat16", "head-dim", "group"],
)
def test_the_fastest_that_can_run_is_taken(
    dtype: torch.dtype, head_dim: int, group: int, variable: dict[str, str], name: str
) -> None:
    """The C++ kernels where they cover the model, else the reference."""
    assert select_ops(CPU, dtype, head_dim, group, variable).name == name


@pytest.mark.parametrize(
    ("value", "head_dim", "message"),
    [
        ("fast", 64, "must be one of: auto, reference, cpu, cuda; got 'fast'"),
        ("cpu", 24, "STEELYARD_KERNELS=cpu: the head dimension is 24"),
    ],
)
def test_a_wrong_choice_is_refused(value: str, head_dim: int, message: str) -> None:
    """The variable is named with what was given and what is allowed."""
    with pytest.raises(ValueError, match=message):
        select_ops(CPU, F32, head_dim, 1, {"STEELYARD_KERNELS": value})


def test_without_a_compiler_the_reference_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A machine that cannot build the kernels serves all the same, and says so in its log."""

    def no_compiler() -> None:
        raise BuildError("there is no C++ compiler (g++ or clang++)")

    monkeypatch.setattr(dispatch, "_cpu_ops", no_compiler)

    with caplog.at_level(logging.WARNING):
        ops = select_ops(CPU, F32, 64, 3, {})

    assert ops.name == "reference"
    assert "there is no C++ compiler" in caplog.text


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The build says what it looked for."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BuildError, match=r"no C\+\+ compiler"):
        build.cached_library(tmp_path)


def test_a_failing_compiler_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the compiler said is in the error, and nothing half-made is left in the cache."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\necho out of luck >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))

    with pytest.raises(BuildError, match="out of luck"):
        build.cached_library(tmp_path / "cache")

    assert not list(tmp_path.rglob("*.so"))


def test_a_compiled_library_is_used_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second call does not compile."""
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\n[ $1 = --version ] && exit 0\necho run >> "$0.log"\n'
        'while [ "$1" != -o ]; do shift; done\ntouch "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))

    first = build.cached_library(tmp_path / "cache")

    assert build.cached_library(tmp_path / "cache") == first
    assert (tmp_path / "c++.log").read_text() == "run\n"


def test_the_head_dimensions_are_those_of_the_sources() -> None:
    """What dispatch lets through has a template instance."""
    source = (build.SOURCES / "phases.h").read_text()

    assert [f"STEELYARD_HEAD_DIM({dim});" in source for dim in HEAD_DIMS] == [True] * len(HEAD_DIMS)

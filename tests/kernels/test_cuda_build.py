"""The CUDA kernels compile without a GPU, without spills; launch choices are checked by hand."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from steelyard_kernels.compiled import PREBUILT_VARIABLE, BuildError
from steelyard_kernels.cuda import build
from steelyard_kernels.cuda.launch import HEAD_DIMS, MAX_GROUP, MAX_SPLITS, TILE_TOKENS
from steelyard_kernels.cuda.launch import decode_splits as splits
from steelyard_kernels.dispatch import select_ops

HOPPER, AMPERE = (9, 0), (8, 0)
MULTIPROCESSORS = 132


@pytest.mark.parametrize("capability", [HOPPER, AMPERE], ids=["sm_90a", "sm_80"])
def test_every_kernel_compiles_without_spills(capability: tuple[int, int], tmp_path: Path) -> None:
    """The resource report has no stack and no spill, and registers for three blocks."""
    try:
        compiler = build.find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    command = [
        *(compiler, *build.architecture_flags(capability), *build.FLAGS, "-Xptxas", "-v"),
        *("-o", str(tmp_path / build.NAME), str(build.SOURCES / build.ENTRY)),
    ]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert report.count("Compiling entry function") >= len(HEAD_DIMS)
    assert re.findall(r"[1-9]\d* bytes (?:stack frame|spill)", report) == []
    # Three blocks of 128 threads share 65,536 registers.
    registers = re.findall(r"decode_attention.*?Used (\d+) registers", report, re.DOTALL)
    assert [int(count) <= 65536 // (3 * 128) for count in registers] == [True] * len(HEAD_DIMS)


def test_the_constants_are_those_of_the_sources() -> None:
    """Python's launch choices and the kernel speak of the same sizes."""
    source = (build.SOURCES / "decode_tile.cuh").read_text()
    constants = {name: int(value) for name, value in re.findall(r"int (k\w+) = (\d+);", source)}

    assert constants["kTileTokens"] == TILE_TOKENS
    assert constants["kGroupRows"] == MAX_GROUP
    assert constants["kMaxSplits"] == MAX_SPLITS


@pytest.mark.parametrize(
    ("sequences", "kv_heads", "head_dim", "count"),
    [
        (1, 8, 128, 16),  # a cluster is no larger
        (8, 8, 128, 2),  # 128 blocks on 132 multiprocessors
        (8, 8, 64, 4),  # 256
        (16, 8, 128, 1),
        (16, 8, 64, 2),
        (256, 8, 128, 1),
    ],
)
def test_splits_fill_the_device(sequences: int, kv_heads: int, head_dim: int, count: int) -> None:
    """Few sequences are cut until every multiprocessor has a block, many are not."""
    assert splits(sequences, kv_heads, head_dim, MULTIPROCESSORS).count == count


def test_a_device_that_is_too_old_is_refused() -> None:
    """The sentence says what is needed and what there is."""
    with pytest.raises(BuildError, match=r"need compute capability 8\.0, the device has 7\.5"):
        build.find_library((7, 5))


def test_a_folder_without_the_library_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is compiled where libraries were to be ready."""
    monkeypatch.setenv(PREBUILT_VARIABLE, str(tmp_path))

    with pytest.raises(BuildError, match=r"holds no libsteelyard_cuda\.so"):
        build.find_library(HOPPER)


def test_without_nvcc_the_search_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error says where a compiler was looked for."""
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)

    with pytest.raises(BuildError, match="nvcc, looked for in CUDA_HOME and PATH"):
        build.find_compiler()


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "group", "message"),
    [
        ("cpu", torch.bfloat16, 128, 4, "the device is cpu"),
        ("cuda", torch.float32, 128, 4, "they compute in bfloat16"),
        ("cuda", torch.bfloat16, 96, 4, "the head dimension is 96, not one of 64, 128"),
        ("cuda", torch.bfloat16, 128, 17, "17 query heads share a key-value head"),
    ],
)
def test_what_the_kernels_cannot_run_is_said(
    device: str, dtype: torch.dtype, head_dim: int, group: int, message: str
) -> None:
    """`STEELYARD_KERNELS=cuda` does not fall back."""
    with pytest.raises(ValueError, match=f"STEELYARD_KERNELS=cuda: {message}"):
        select_ops(torch.device(device), dtype, head_dim, group, {"STEELYARD_KERNELS": "cuda"})

"""A worker that cannot start says why in one sentence and exits with 2."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.testing.processes import free_port
from steelyard_runtime.testing.services import MODEL

pytestmark = pytest.mark.model

CHECKPOINT = resolve(MODEL)


def write_gguf(path: Path, architecture: str) -> None:
    """Write a complete but tiny file of an architecture that nobody serves."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint32(f"{architecture}.block_count", 1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def change_quantization(path: Path) -> None:
    """Copy the model with its first Q4_1 tensor's type changed to one that nobody reads."""
    data = bytearray(CHECKPOINT.read_bytes())
    name = b"blk.0.ffn_gate.weight"
    at = data.index(name) + len(name)
    dimensions = int.from_bytes(data[at : at + 4], "little")
    kind = at + 4 + 8 * dimensions
    data[kind : kind + 4] = int(gguf.GGMLQuantizationType.IQ1_S).to_bytes(4, "little")
    path.write_bytes(data)


def start(*flags: str, model: str = MODEL) -> tuple[int, list[str]]:
    """Run a worker to its end; return the exit code and what a user reads."""
    ports = {"--port": free_port(), "--admin-port": free_port(), "--kv-port": free_port()}
    given = [part for name, port in ports.items() for part in (name, str(port))]
    command = [sys.executable, "-m", "steelyard_runtime.cli", "serve", "--model", model]
    ended = subprocess.run(
        [*command, "--threads", "1", *given, *flags],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        check=False,
    )
    assert ended.stdout == ""
    return ended.returncode, [line for line in ended.stderr.splitlines() if line[:1] != "{"]


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no file"),
    "wrong": (lambda path: path.write_bytes(b"pickle"), "GGUF"),
    "truncated": (
        lambda path: path.write_bytes(CHECKPOINT.read_bytes()[:3_000_000]),
        "truncated",
    ),
    "architecture": (lambda path: write_gguf(path, "falcon"), "'falcon'; must be one of: llama"),
    "quantization": (change_quantization, "IQ1_S; must be one of: F32"),
}
PORTS = ("--port", "--admin-port", "--kv-port")
FLAGS = {
    ("--role", "draft"): "prefill, decode, both",
    ("--block-siz", "16"): "--block-siz",
    ("--max-model-len", "100000"): "8192",
}


@dataclass(frozen=True, slots=True)
class Starts:
    """How all the starts of this module ended; they run a few at a time."""

    folder: Path
    taken_port: int
    ends: dict[object, tuple[int, list[str]]]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Starts:
    """Start every wrong worker."""
    folder = tmp_path_factory.mktemp("starts")
    with socket.socket() as listener, ThreadPoolExecutor(4) as pool:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        futures: dict[object, Future[tuple[int, list[str]]]] = {
            flag: pool.submit(start, flag, str(taken)) for flag in PORTS
        }
        futures |= {flags: pool.submit(start, *flags) for flags in FLAGS}
        for name, (make, _) in CHECKPOINTS.items():
            make(folder / f"{name}.gguf")
            futures[name] = pool.submit(start, model=str(folder / f"{name}.gguf"))
        return Starts(folder, taken, {key: future.result() for key, future in futures.items()})


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_served(starts: Starts, name: str) -> None:
    """The sentence names the file and what is wrong with it."""
    code, lines = starts.ends[name]

    assert code == 2
    (line,) = lines
    assert str(starts.folder / f"{name}.gguf") in line
    assert CHECKPOINTS[name][1] in line


@pytest.mark.parametrize("flag", PORTS)
def test_a_port_in_use(starts: Starts, flag: str) -> None:
    """The sentence names the flag and the port."""
    code, lines = starts.ends[flag]

    assert code == 2
    (line,) = lines
    assert flag in line
    assert str(starts.taken_port) in line


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_a_wrong_flag(starts: Starts, flags: tuple[str, ...]) -> None:
    """The sentence names the flag and what is allowed or wrong."""
    code, lines = starts.ends[flags]

    assert code == 2
    (line,) = lines
    assert FLAGS[flags] in line

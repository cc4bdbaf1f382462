"""A worker that cannot start says why in one sentence and exits with 2."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


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


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "no file"),
        (lambda path: path.write_bytes(b"pickle"), "GGUF"),
        (lambda path: path.write_bytes(CHECKPOINT.read_bytes()[:3_000_000]), "truncated"),
        (lambda path: write_gguf(path, "falcon"), "falcon"),
        (change_quantization, "IQ1_S"),
    ],
    ids=["missing", "wrong", "truncated", "architecture", "quantization"],
)
def test_a_checkpoint_that_cannot_be_served(
    tmp_path: Path, make: Callable[[Path], object], says: str
) -> None:
    """The sentence names the file and what is wrong with it."""
    path = tmp_path / "model.gguf"
    make(path)

    code, lines = start(model=str(path))

    assert code == 2
    (line,) = lines
    assert str(path) in line
    assert says in line


@pytest.mark.parametrize("flag", ["--port", "--admin-port", "--kv-port"])
def test_a_port_in_use(taken_port: int, flag: str) -> None:
    """The sentence names the flag and the port."""
    code, lines = start(flag, str(taken_port))

    assert code == 2
    (line,) = lines
    assert flag in line
    assert str(taken_port) in line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--role", "draft"), "prefill, decode, both"),
        (("--block-siz", "16"), "--block-siz"),
        (("--max-model-len", "100000"), "8192"),
        (("--kv-peers", "everywhere"), "--kv-peers"),
        (("--api-key-file", "/nonexistent"), "/nonexistent"),
    ],
)
def test_a_wrong_flag(flags: tuple[str, ...], says: str) -> None:
    """The sentence names the flag and what is allowed or wrong."""
    code, lines = start(*flags)

    assert code == 2
    (line,) = lines
    assert says in line

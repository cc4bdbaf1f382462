"""Damaged checkpoints: one sentence, in bounded time and memory, whatever is wrong with them."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.checkpoint_files.gguf_header import read_gguf_header
from steelyard_runtime.checkpoint_files.reading import read_small
from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.errors import CheckpointError
from steelyard_runtime.testing.checkpoint_fuzz import load
from steelyard_runtime.testing.smallest_checkpoints import (
    write_smallest_gguf,
    write_smallest_gpt_oss,
    write_smallest_llama,
)

# Enough for a few hundred cases in some seconds; `--cases 20000` is for an evening.
CASES = 250


def change(file: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    document = json.loads(file.read_text())
    file.write_text(json.dumps(document | fields))


def test_random_damage_is_a_sentence_or_a_model() -> None:
    """Hundreds of cases under a bound of memory, each under one of time."""
    command = [sys.executable, "-m", "steelyard_runtime.testing.checkpoint_fuzz"]
    command += ["--cases", str(CASES), "--seed", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{CASES} cases in" in ran.stdout


@pytest.mark.parametrize(
    "write", [write_smallest_llama, write_smallest_gpt_oss, write_smallest_gguf]
)
def test_a_whole_checkpoint_loads(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """What is damaged below is good before."""
    load(write(tmp_path))


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "a list for RoPE": {"rope_scaling": [1]},
    "a text for RoPE": {"rope_parameters": "yarn"},
    "a number for a kind of RoPE": {"rope_scaling": {"rope_type": 7}},
    "a factor without end": {"rope_scaling": LLAMA3 | {"factor": float("inf")}},
    "no number": {"rope_scaling": LLAMA3 | {"factor": float("nan")}},
    "two equal factors": {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
    "theta of one": {"rope_theta": 1},
    "theta as text": {"rope_theta": "10000"},
    "theta of a list": {"rope_theta": [1]},
    "a vast vocabulary": {"vocab_size": 2**40},
    "vast and hidden": {"hidden_size": 2**31},
    "positions without end": {"max_position_embeddings": 2**60},
    "layers without end": {"num_hidden_layers": 2**31},
    "no head": {"num_attention_heads": 0},
    "a head of text": {"head_dim": "64"},
    "a negative head": {"head_dim": -64},
    "a fraction": {"intermediate_size": 64.5},
    "true for a number": {"num_key_value_heads": True},
    "text for true": {"tie_word_embeddings": "no"},
    "a number for an activation": {"hidden_act": 5},
    "a list for quantization": {"quantization_config": ["mxfp4"]},
    "a number for a class": {"architectures": [5]},
    "a class in a class": {"architectures": [["LlamaForCausalLM"]]},
    "an end beyond the vocabulary": {"eos_token_id": 2**32 - 1},
    "a negative end": {"eos_token_id": [-1]},
    "an end of text": {"eos_token_id": "257"},
    "ends in ends": {"eos_token_id": [[257]]},
    "a tiny epsilon": {"rms_norm_eps": 1e-45},
}


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
def test_a_field_of_the_wrong_kind(tmp_path: Path, fields: dict[str, Any]) -> None:
    """The sentence names the file."""
    target = write_smallest_llama(tmp_path)
    (target / "generation_config.json").unlink()
    change(target / "config.json", **fields)

    with pytest.raises(CheckpointError, match=r"config\.json|has the architecture") as raised:
        load(target)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("kinds", [5, "sliding_attention", [5], [["full_attention"]], {}, [None]])
def test_kinds_of_layers_of_the_wrong_kind(tmp_path: Path, kinds: Any) -> None:
    """Of gpt-oss."""
    target = write_smallest_gpt_oss(tmp_path)
    change(target / "config.json", layer_types=kinds)

    with pytest.raises(CheckpointError, match="'layer_types' must have one of"):
        load(target)


def test_a_tokenizer_with_more_ids_than_the_model(tmp_path: Path) -> None:
    """One of them would end a step, and every request with it."""
    target = write_smallest_llama(tmp_path)
    document = json.loads((target / "tokenizer.json").read_text())
    document["added_tokens"][-1]["id"] = 300
    document["model"]["vocab"]["more"] = 300
    (target / "tokenizer.json").write_text(json.dumps(document))

    with pytest.raises(CheckpointError, match="the tokenizer has ids up to"):
        load(target)


def test_a_token_id_of_32_bits(tmp_path: Path) -> None:
    """A list with a place for each id would have 32 GiB."""
    target = write_smallest_llama(tmp_path)
    document = json.loads((target / "tokenizer.json").read_text())
    document["model"]["vocab"]["last"] = 2**32 - 1
    (target / "tokenizer.json").write_text(json.dumps(document))

    with pytest.raises(CheckpointError, match="ids must be below 16777216"):
        load(target)


@pytest.mark.parametrize("template", [5, True, {"a": "b"}, [5], [{"name": "a"}], [{"template": 1}]])
def test_a_chat_template_of_the_wrong_kind(tmp_path: Path, template: Any) -> None:
    """It is not left out silently, and not turned into text."""
    target = write_smallest_llama(tmp_path)
    change(target / "tokenizer_config.json", chat_template=template)

    with pytest.raises(CheckpointError, match="chat_template must be a string, or a list of"):
        load(target)


TABLES: dict[str, Any] = {
    "a number": 5,
    "a fraction in a shape": {"dtype": "F32", "shape": [9.5], "data_offsets": [0, 36]},
    "infinity": {"dtype": "F32", "shape": [float("inf")], "data_offsets": [0, 36]},
    "text in a shape": {"dtype": "F32", "shape": ["9"], "data_offsets": [0, 36]},
    "a shape of text": {"dtype": "F32", "shape": "9", "data_offsets": [0, 36]},
    "negative": {"dtype": "F32", "shape": [-3, -3], "data_offsets": [0, 36]},
    "before the file": {"dtype": "X", "shape": [1], "data_offsets": [-8, 0]},
    "backwards": {"dtype": "X", "shape": [1], "data_offsets": [36, 0]},
    "three offsets": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36, 36]},
    "a type of list": {"dtype": ["F32"], "shape": [9], "data_offsets": [0, 36]},
    "more than 64 bits": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]},
}


@pytest.mark.parametrize("entry", TABLES.values(), ids=TABLES)
def test_a_table_of_weights_that_is_damaged(tmp_path: Path, entry: Any) -> None:
    """Whatever an entry says."""
    target = write_smallest_gpt_oss(tmp_path)
    write_table(target, {"model.norm.weight": entry})

    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight'"):
        load(target)


def write_table(target: Path, table: Any) -> None:
    """Write a weight file of 36 bytes."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(36)
    (target / "model.safetensors").write_bytes(content)


def test_tensors_that_lie_over_each_other(tmp_path: Path) -> None:
    """A small file would fill any memory."""
    target = write_smallest_gpt_oss(tmp_path)
    entry = {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}
    write_table(target, {"a": entry, "b": entry})

    with pytest.raises(CheckpointError, match="lie over each other; they have 72 bytes"):
        load(target)


def test_a_table_that_is_nested_without_end(tmp_path: Path) -> None:
    """Python's reader has a depth."""
    target = write_smallest_gpt_oss(tmp_path)
    write_table(target, b'{"a":' * 100_000)

    with pytest.raises(CheckpointError, match="nested too deep"):
        load(target)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\0b", "a" * 5000, "", "..", 5, None])
def test_an_index_that_names_other_files(tmp_path: Path, name: Any) -> None:
    """Weights are in the checkpoint's own directory."""
    target = write_smallest_llama(tmp_path)
    change(target / "model.safetensors.index.json", weight_map={"a": name})

    with pytest.raises(CheckpointError, match=r"names '|must name a file"):
        load(target)


def gguf(*parts: Any, tensors: int = 0, pairs: int = 0) -> bytes:
    """A GGUF header: numbers as given, texts with their length."""
    body = b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)
    for part in parts:
        body += struct.pack("<Q", len(part)) + part if isinstance(part, bytes) else part[0]
    return body


U32, U64 = (lambda n: (struct.pack("<I", n),)), (lambda n: (struct.pack("<Q", n),))
STRING, ARRAY = U32(8), U32(9)
HEADERS = {
    "2^63 pairs": gguf(pairs=2**63),
    "2^63 tensors": gguf(tensors=2**63),
    "a text of 2^40": gguf(U64(2**40), pairs=1),
    "a text of 2^64": gguf(U64(2**64 - 1), pairs=1),
    "2^62 texts": gguf(b"a", ARRAY, STRING, U64(2**62), pairs=1),
    "2^62 numbers": gguf(b"a", ARRAY, U32(12), U64(2**62), pairs=1),
    "arrays in arrays": gguf(b"a", ARRAY, ARRAY, U64(9), pairs=1),
    "parts as text": gguf(b"split.count", STRING, b"many", pairs=1),
    "an alignment of text": gguf(b"general.alignment", STRING, b"8", pairs=1),
    "a NUL": gguf(b"a\0b", U32(2), U32(0), tensors=1),
    "2^64 values": gguf(b"a", U32(4), *[U64(2**63)] * 4, U32(0), U64(0), tensors=1),
    "an end": b"GGUF",
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_gguf_header_that_lies(tmp_path: Path, content: bytes) -> None:
    """Counts and lengths are held against the file before anything is made of them."""
    file = tmp_path / "a.gguf"
    file.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"a\.gguf"):
        read_gguf_header(file)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["device", "pipe", "directory"])
def test_a_file_that_is_no_file(tmp_path: Path, name: str, kind: str) -> None:
    """A device has no end, and a pipe waits for ever."""
    target = write_smallest_llama(tmp_path)
    (target / name).unlink()
    if kind == "device":
        (target / name).symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(target / name)
    else:
        (target / name).mkdir()

    with pytest.raises(CheckpointError, match=rf"{name}"):
        load(target)


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    """It takes no memory before it is refused."""
    file = tmp_path / "config.json"
    with file.open("wb") as out:
        out.truncate(2**40)

    with pytest.raises(CheckpointError, match="must have at most 64 MiB"):
        read_small(file)


URIS = {
    "a device": "/dev/zero",
    "a device by URI": "file:///dev/zero",
    "brackets": "file://[a/b",
    "NUL": "file:///a%00b",
    "too long": "file:///" + "a" * 5000,
    "no user": "~nobody-of-this-name/model",
    "out of a package": "package://steelyard/../../x",
    "absolute in a package": "package://steelyard//etc/passwd",
    "a path for a package": "package://../x/y",
    "too long in a package": "package://pytest/" + "a" * 5000,
    "a line": "file:///a\nb",
}


@pytest.mark.parametrize("uri", URIS.values(), ids=URIS)
def test_an_address_that_is_no_checkpoint(uri: str) -> None:
    """A sentence, cut short, before anything is opened."""
    with pytest.raises(CheckpointError) as raised:
        resolve(uri)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 6000


def test_a_pipe_is_no_checkpoint(tmp_path: Path) -> None:
    """Opening it would wait for a writer."""
    os.mkfifo(tmp_path / "a.gguf")

    with pytest.raises(CheckpointError, match="is neither a file nor a directory"):
        resolve(f"file://{tmp_path}/a.gguf")


def test_a_worker_says_it_and_ends_with_2(tmp_path: Path) -> None:
    """By the real command line: no traceback, one sentence."""
    target = write_smallest_llama(tmp_path)
    change(target / "config.json", rope_scaling=[1])
    command = [sys.executable, "-m", "steelyard_runtime.cli", "serve", "--model", str(target)]
    command += ["--port", "0", "--admin-port", "0", "--device", "cpu"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert ran.returncode == 2
    assert "'rope_scaling' must be an object, got [1]" in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr

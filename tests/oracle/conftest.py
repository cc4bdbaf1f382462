"""Prompts of 5 to 1,500 tokens, and what transformers makes of them.

The oracle is asked once per prompt, with prompt and output together: if every output id is the
argmax at its place, the output is what greedy search makes (`testing/oracle.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from steelyard_runtime.checkpoint_files.sources import resolve
from steelyard_runtime.testing.engines import SMOLLM2, EngineRig
from steelyard_runtime.testing.oracle import Oracle
from steelyard_runtime.tokenization.loading import load_tokenizer
from steelyard_runtime.tokenization.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]
OUTPUT_TOKENS = 64
# (first character of the licence, tokens): prose of many lengths, around block and chunk borders.
PROSE = [
    (0, 5), (40, 15), (100, 16), (300, 17), (700, 31), (900, 32), (1500, 33), (2100, 64),
    (3000, 100), (4000, 255), (5000, 256), (5200, 257), (6000, 500), (900, 777), (100, 1500),
]  # fmt: skip
SENTENCES = [
    "The three primary colours are",
    "def fibonacci(n):\n    if n < 2:\n        return n\n",
    "1, 2, 3, 5, 8, 13, 21, 34,",
    "Ünïcödé und 漢字 🙂 — “quotes” and\ttabs:",
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nList five animals.<|im_end|>\n<|im_start|>assistant\n",
    "    \n\n\n  - item\n  - item\n  -",
]


@dataclass(frozen=True, slots=True)
class Reference:
    """One prompt and its greedy output, confirmed by the oracle."""

    prompt: list[int]
    output: list[int]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """SmolLM2's tokenizer."""
    return load_tokenizer(resolve(SMOLLM2))


@pytest.fixture(scope="session")
def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    """The prompts' ids."""
    licence = (ROOT / "LICENSE").read_text()
    prose = [tokenizer.encode(licence[start:])[:count] for start, count in PROSE]
    return prose + [tokenizer.encode(sentence) for sentence in SENTENCES]


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """Transformers on the same weights in float32."""
    return Oracle.of_checkpoint(resolve(SMOLLM2))


@pytest.fixture(scope="session")
def colocated() -> Iterator[EngineRig]:
    """One engine that does both."""
    rig = EngineRig(kv_cache_bytes=1 << 30, threads=1, transfer=local("tcp"))
    yield rig
    rig.close()


def local(transport: str) -> object:
    """A transfer configuration with a port of its own."""
    from steelyard_runtime.config import TransferConfig

    return TransferConfig(transport=transport, port=0, token="secret")


@pytest.fixture(scope="session")
def references(prompts: list[list[int]], colocated: EngineRig, oracle: Oracle) -> list[Reference]:
    """Greedy outputs, alone and with a cold prefix; each id is the oracle's.

    One tie of the oracle itself (top two logits within 1e-3) is allowed in all.
    """
    made: list[Reference] = []
    ties = 0
    for prompt in prompts:
        colocated.engine.reset_prefix_cache()
        (answer,) = colocated.generate([prompt], max_tokens=OUTPUT_TOKENS, ignore_eos=True)
        difference = oracle.first_difference(prompt, answer.token_ids)
        if difference is not None:
            assert difference.is_tie, difference
            ties += 1
        made.append(Reference(prompt, answer.token_ids))
    assert ties <= 1 + len(prompts) * OUTPUT_TOKENS // 1280
    return made


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Threads that wait for each other on a busy machine cost more than a second one brings."""
    torch.set_num_threads(1)

"""The engine on a GPU: the same logits as transformers, recorded or not, alone or in a batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.engine.model_runner import ModelRunner
from steelyard_runtime.models.checkpoint import open_checkpoint
from steelyard_runtime.models.registry import load_model
from steelyard_runtime.testing.oracle import Oracle
from steelyard_runtime.testing.paged_runs import PagedRun

pytestmark = pytest.mark.gpu

VOCABULARY = 96
PROMPT = [(7 * i * i + 3) % VOCABULARY for i in range(75)]


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return torch.device("cuda")


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Oracle]:
    """A random Llama with heads of 64, as a Hugging Face directory, and its oracle."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=512,
            initializer_range=0.1,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(tmp_path)
    return tmp_path, Oracle(model)


def a_run(path: Path, device: torch.device, dtype: torch.dtype) -> PagedRun:
    model = load_model(open_checkpoint(path), device, dtype, 16)
    return PagedRun(model, device=device)


def test_float32_equals_transformers(tiny: Any, cuda: torch.device) -> None:
    """The reference ops on the GPU, prefilled in uneven chunks."""
    path, oracle = tiny
    run = a_run(path, cuda, torch.float32)
    sequence = run.sequence(PROMPT)

    parts = [run.step((sequence, count))[0] for count in (1, 30, 7, 37)]

    assert (torch.cat(parts).cpu() - oracle.logits(PROMPT)).abs().max() < 1e-3


def test_bfloat16_is_close_to_transformers(tiny: Any, cuda: torch.device) -> None:
    """Our kernels, chunks and single tokens mixed with another sequence's prefill."""
    path, oracle = tiny
    run = a_run(path, cuda, torch.bfloat16)
    assert run.runner.model.ops.name == "cuda"  # type: ignore[attr-defined]
    sequence, other = run.sequence(PROMPT), run.sequence(PROMPT[::-1])
    parts = [run.step((sequence, 30))[0]]
    parts.append(run.step((other, 20), (sequence, 44))[1])
    parts.append(run.step((other, 50), (sequence, 1))[1])

    expected = oracle.logits(PROMPT)
    error = (torch.cat(parts).cpu() - expected).norm() / expected.norm()
    assert error < 0.03


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_recorded_steps_equal_launched_ones(tiny: Any, cuda: torch.device, count: int) -> None:
    """A graph gives what its kernels give one by one, in batches of any size, step after step."""
    path, _ = tiny
    logits: dict[bool, list[torch.Tensor]] = {}
    for recorded in (False, True):
        run = a_run(path, cuda, torch.bfloat16)
        if recorded:
            run.runner.record_graphs(20, 512)
            assert run.runner.graphs is not None
        sequences = [run.sequence(PROMPT[: 5 + 3 * row]) for row in range(count)]
        logits[recorded] = []
        run.step(*((sequence, sequence.num_pending) for sequence in sequences))
        for step in range(20):
            for row, sequence in enumerate(sequences):
                sequence.tokens.append((row * 31 + step * 7) % VOCABULARY)
            if step == 10:
                sequences.reverse()  # Rows change places.
            made = run.step(*((sequence, 1) for sequence in sequences))
            logits[recorded].append(torch.cat(made).clone())

    launched, replayed = (torch.stack(logits[recorded]) for recorded in (False, True))
    assert (launched - replayed).norm() / launched.norm() < 0.02


def test_recording_leaves_the_cache_alone(tiny: Any, cuda: torch.device) -> None:
    """Padding rows write to no block."""
    path, _ = tiny
    model = load_model(open_checkpoint(path), cuda, torch.bfloat16, 16)
    pool = KVPool(model.kv_geometry, 8, cuda)
    pool.tensor.normal_()
    before = pool.tensor.clone()

    ModelRunner(model, pool, cuda).record_graphs(9, 512)

    assert torch.equal(pool.tensor, before)

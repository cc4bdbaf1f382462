"""The engine on a GPU: the same logits as transformers, recorded or not, alone or in a batch."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from steelyard_runtime.config import TransferConfig
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.limits import SchedulerConfig
from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.engine.engine import Engine
from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.engine.model_runner import ModelRunner
from steelyard_runtime.ipc.messages import AddRequest
from steelyard_runtime.models.checkpoint import open_checkpoint
from steelyard_runtime.models.registry import load_model
from steelyard_runtime.structured.matchers import GrammarVocabulary
from steelyard_runtime.structured.service import GrammarService
from steelyard_runtime.testing.oracle import Oracle
from steelyard_runtime.testing.paged_runs import PagedRun
from steelyard_runtime.transfer.registry import make_transfer

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


def test_steps_launched_ahead_give_the_same_tokens(tiny: Any, cuda: torch.device) -> None:
    """Sequences of unlike lengths leave while a step is in flight; requests come in between."""
    path, _ = tiny
    answers: dict[bool, dict[str, list[int]]] = {}
    for ahead in (False, True):
        engine = an_engine(path, cuda, ahead=ahead)
        answers[ahead] = {}
        for number in range(12):
            params = SamplingParams(max_tokens=3 + 5 * number, temperature=0.0, ignore_eos=True)
            engine.add(AddRequest(f"r{number}", PROMPT[: 5 + 4 * number], params))
            if number % 3 == 2:
                take(engine, answers[ahead], steps=7)
        take(engine, answers[ahead])

    assert {len(tokens) for tokens in answers[True].values()} == set(range(3, 63, 5))
    assert answers[True] == answers[False]


def an_engine(path: Path, device: torch.device, *, ahead: bool) -> Engine:
    """Return an engine of at most 8 sequences, so that some wait."""
    model = load_model(open_checkpoint(path), device, torch.bfloat16, 16)
    pool = KVPool(model.kv_geometry, 64, device)
    runner = ModelRunner(model, pool, device)
    runner.record_graphs(8, 512)
    runner.runs_ahead = ahead
    transfer = make_transfer(
        TransferConfig(transport="tcp", port=0),
        engine_id="test",
        fingerprint="",
        memory=pool,
        environment={},
    )
    config = SchedulerConfig(
        max_num_seqs=8,
        max_num_batched_tokens=128,
        max_waiting_requests=64,
        block_size=16,
        max_model_len=512,
    )
    return Engine(
        scheduler=Scheduler(config, BlockManager(64)),
        runner=runner,
        grammars=GrammarService(lambda: GrammarVocabulary("", 0, ())),
        transfer=transfer,
        eos_token_ids=frozenset(),
        vocab_size=VOCABULARY,
        fingerprint="",
        clock_ns=time.monotonic_ns,
    )


def take(engine: Engine, answers: dict[str, list[int]], steps: int | None = None) -> None:
    """Step so often, or to the end, and collect the tokens."""
    while engine.in_flight and steps != 0:
        steps = None if steps is None else steps - 1
        for output in engine.step():
            answers.setdefault(output.request_id, []).extend(output.token_ids)

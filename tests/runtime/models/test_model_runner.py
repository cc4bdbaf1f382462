"""The tensors of a step follow from the plan."""

from typing import Any

import pytest
import torch

from steelyard_runtime.core.batch import Scheduled, StepPlan
from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.sequence import Sequence
from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.engine.model_runner import ModelRunner
from steelyard_runtime.engine.step_tensors import forward_batch
from steelyard_runtime.testing.paged_runs import PagedRun

CPU = torch.device("cpu")


def a_sequence(tokens: list[int], block_ids: list[int]) -> Sequence:
    return Sequence("r", tokens, len(tokens), SamplingParams(max_tokens=1), block_ids=block_ids)


def a_mixed_batch() -> Any:
    decoding = a_sequence([10, 11, 12, 13, 14, 15], [7, 2])
    prefilling = a_sequence([20, 21, 22, 23, 24, 25, 26, 27, 28], [5, 1, 9])
    return forward_batch(
        [Scheduled(decoding, 5, 1, (5,)), Scheduled(prefilling, 2, 4, (3, 5))], 4, CPU
    )


FIELDS = {
    "token_ids": [15, 22, 23, 24, 25],
    "positions": [5, 2, 3, 4, 5],
    "slots": [2 * 4 + 1, 5 * 4 + 2, 5 * 4 + 3, 1 * 4 + 0, 1 * 4 + 1],
    "query_starts": [0, 1, 5],
    "context_lens": [6, 6],
    "block_tables": [[7, 2], [5, 1]],
    "logit_rows": [0, 2, 4],
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_step_becomes_tensors(field: str) -> None:
    """Token ids, positions, slots and rows are those of the scheduled positions."""
    assert getattr(a_mixed_batch(), field).tolist() == FIELDS[field]


def test_launch_sizes_are_known_on_the_host() -> None:
    """The longest query and the longest context come as plain numbers."""
    batch = a_mixed_batch()

    assert (batch.max_query_len, batch.max_context_len) == (4, 6)


def test_rows_of_logits_are_the_asked_positions(tiny_model: Any) -> None:
    """A plan that asks for two positions gets their logits and no others."""
    path, _ = tiny_model()
    run = PagedRun.of_path(path)
    tokens = [5, 17, 60, 2, 9]
    sequence = run.sequence(tokens)
    (everything,) = run.step((sequence, 5))

    some = run.runner.run(StepPlan([Scheduled(sequence, 0, 5, (1, 4))]))

    assert torch.allclose(some, everything[[1, 4]], atol=1e-5)


def test_a_plan_may_ask_for_no_logits(tiny_model: Any) -> None:
    """A prefill chunk that does not end the prompt returns no rows."""
    path, _ = tiny_model()
    run = PagedRun.of_path(path)

    logits = run.runner.run(StepPlan([Scheduled(run.sequence([1, 2, 3]), 0, 2, ())]))

    assert logits.shape == (0, 97)


def test_warm_up_leaves_the_pool_zero(tiny_model: Any) -> None:
    """The pool holds nothing of the warm-up when the first request comes."""
    path, _ = tiny_model()
    model = PagedRun.of_path(path).runner.model
    runner = ModelRunner(model, KVPool(model.kv_geometry, 4, CPU), CPU)

    runner.warm_up(64)

    assert runner.pool.tensor.count_nonzero() == 0

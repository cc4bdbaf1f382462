"""What goes into a recorded step, as far as it can be seen without a GPU."""

from typing import Any

import numpy as np
import pytest
import torch

from steelyard_runtime.core.batch import Scheduled
from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.sequence import Sequence
from steelyard_runtime.engine.decode_graphs import DecodeGraphs, HostTables, batch_sizes
from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.engine.step_tensors import forward_batch
from steelyard_runtime.models.batch import KVGeometry

CPU = torch.device("cpu")
GEOMETRY = KVGeometry(1, 1, 16, 4, torch.float32)


def decoding(tokens: int, block_ids: list[int]) -> Scheduled:
    sequence = Sequence(
        "r", list(range(100, 100 + tokens)), tokens, SamplingParams(1), block_ids=block_ids
    )
    return Scheduled(sequence, tokens - 1, 1, (tokens - 1,))


class CapturingModel:
    """Not run: only the inputs of a step are looked at."""


@pytest.fixture
def graphs() -> DecodeGraphs:
    model: Any = CapturingModel()
    return DecodeGraphs(model, KVPool(GEOMETRY, 8, CPU), CPU, max_sequences=8, max_context=20)


@pytest.mark.parametrize("largest", [1, 2, 5, 8, 60, 256, 1000])
def test_the_ladder_has_few_steps_and_little_padding(largest: int) -> None:
    """Every size up to the largest fits; beyond 32 at most an eighth of the rows is padding."""
    sizes = batch_sizes(largest)

    assert sizes[-1] == largest
    assert sizes == sorted(set(sizes))
    for count in range(1, largest + 1):
        size = next(size for size in sizes if size >= count)
        assert size - count <= max(4, size // 8)


def test_a_recorded_step_has_the_inputs_of_a_launched_one(graphs: DecodeGraphs) -> None:
    """Views of the buffer hold what `forward_batch` makes; further rows are padding."""
    scheduled = [decoding(9, [5, 1, 7]), decoding(4, [3]), decoding(5, [6, 2])]
    expected = forward_batch(scheduled, GEOMETRY.block_tokens, CPU)

    cells = graphs._fill(graphs._host, scheduled, 4)
    graphs._device[:cells] = graphs._pinned[:cells]
    batch = graphs.batch(4)

    for name in ("token_ids", "positions", "slots", "context_lens"):
        assert getattr(batch, name)[:3].tolist() == getattr(expected, name).tolist(), name
    assert (batch.slots[3], batch.context_lens[3]) == (-1, 0)
    for row, item in enumerate(scheduled):
        blocks = item.sequence.block_ids
        assert batch.block_tables[row, : len(blocks)].tolist() == blocks
    assert (batch.single_sequences, batch.max_query_len, len(batch.logit_rows)) == (4, 1, 4)


def test_other_steps_are_not_recorded(graphs: DecodeGraphs) -> None:
    """Prefill chunks, several wanted rows and batches beyond the largest run launch by launch."""
    chunk = Scheduled(decoding(9, [5, 1, 7]).sequence, 3, 6, (8,))
    silent = Scheduled(decoding(9, [5, 1, 7]).sequence, 3, 1, ())

    assert graphs.run([decoding(4, [3]), chunk]) is None
    assert graphs.run([silent]) is None
    assert graphs.run([decoding(4, [3])] * 9) is None


def test_tables_follow_their_sequences() -> None:
    """Blocks are added, rows change places, and a preempted sequence gets another list."""
    tables, first, second = HostTables(3, 4), [4, 2], [9]

    assert np.array_equal(tables.take([first, second])[:, :1], [[4], [9]])
    first.append(7)
    assert tables.take([first, second])[0, :3].tolist() == [4, 2, 7]
    assert tables.take([second, first])[1, :3].tolist() == [4, 2, 7]
    again = [1, 3, 8]
    assert tables.take([second, again])[1, :3].tolist() == [1, 3, 8]

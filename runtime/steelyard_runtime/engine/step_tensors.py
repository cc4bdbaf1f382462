"""From the scheduler's plan to the tensors of one forward pass; the work is per step."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard_runtime.core.batch import Scheduled
from steelyard_runtime.models.batch import ForwardBatch


def forward_batch(
    scheduled: list[Scheduled],
    block_tokens: int,
    device: torch.device,
    fed: Tensor | None = None,
) -> ForwardBatch:
    """Build the tensors of a plan with at least one item.

    Sequences with one query token come first, as kernels want them; the rows of logits stay in the
    plan's order.

    Args:
        scheduled: the plan's items.
        block_tokens: tokens of a KV block.
        device: where the tensors go.
        fed: (S,) int64, the one token of each item, where the host does not know them.
    """
    order = sorted(range(len(scheduled)), key=lambda index: scheduled[index].count > 1)
    items = [scheduled[index] for index in order]
    counts = np.array([item.count for item in items], dtype=np.int64)
    starts = np.array([item.start for item in items], dtype=np.int64)
    ends = starts + counts
    query_starts = np.zeros(len(items) + 1, dtype=np.int64)
    np.cumsum(counts, out=query_starts[1:])
    total = int(query_starts[-1])
    max_context = int(ends.max())

    tables = np.zeros((len(items), -(-max_context // block_tokens)), dtype=np.int64)
    token_ids = np.empty(total, dtype=np.int64)
    first_rows = [0] * len(items)
    for row, item in enumerate(items):
        used = -(-int(ends[row]) // block_tokens)
        tables[row, :used] = item.sequence.block_ids[:used]
        first = first_rows[order[row]] = int(query_starts[row])
        if fed is None:
            token_ids[first : first + item.count] = item.sequence.tokens[
                item.start : item.start + item.count
            ]
    logit_rows = [
        first_rows[index] + position - item.start
        for index, item in enumerate(scheduled)
        for position in item.logit_positions
    ]

    owner = np.repeat(np.arange(len(items)), counts)
    positions = np.arange(total) - np.repeat(query_starts[:-1] - starts, counts)
    slots = tables[owner, positions // block_tokens] * block_tokens + positions % block_tokens
    single = int((counts == 1).sum())

    def tensor(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return ForwardBatch(
        token_ids=tensor(token_ids) if fed is None else fed,
        positions=tensor(positions),
        slots=tensor(slots),
        query_starts=tensor(query_starts),
        context_lens=tensor(ends),
        block_tables=tensor(tables),
        logit_rows=tensor(np.array(logit_rows, dtype=np.int64)),
        max_query_len=int(counts.max()),
        max_context_len=max_context,
        single_sequences=single,
        chunk_context_tokens=int(ends[single:].sum()),
    )

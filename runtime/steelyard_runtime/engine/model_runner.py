"""From the scheduler's plan to logits: builds the tensors of a step and runs the model once."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard_runtime.core.batch import Scheduled, StepPlan
from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.models.batch import ForwardBatch, Model


class ModelRunner:
    """Runs a model over a pool. One thread at a time."""

    def __init__(self, model: Model, pool: KVPool, device: torch.device) -> None:
        self.model = model
        self.pool = pool
        self.device = device

    def run(self, plan: StepPlan) -> Tensor:
        """Return logits (R, vocab) in float32 for a plan with at least one scheduled item.

        Rows are in the order of `plan.scheduled` and, within an item, of its `logit_positions`;
        R may be 0.
        """
        with torch.inference_mode():
            batch = forward_batch(plan.scheduled, self.pool.geometry.block_tokens, self.device)
            return self.model.forward(batch, self.pool.tensor)

    def warm_up(self, num_tokens: int) -> None:
        """Run the largest prefill and a decode step once, so that no request pays for first calls.

        Writes only to block 0, which belongs to nobody before the first request.
        """
        for count in (min(num_tokens, self.model.max_position), 1):
            tokens = torch.zeros(count, dtype=torch.int64, device=self.device)
            block_tokens = self.pool.geometry.block_tokens
            batch = ForwardBatch(
                token_ids=tokens,
                positions=tokens,
                slots=torch.arange(count, device=self.device) % block_tokens,
                query_starts=torch.tensor([0, count], device=self.device),
                context_lens=torch.tensor([count], device=self.device),
                block_tables=torch.zeros(
                    (1, -(-count // block_tokens)), dtype=torch.int64, device=self.device
                ),
                logit_rows=tokens[:1],
                max_query_len=count,
                max_context_len=count,
            )
            with torch.inference_mode():
                self.model.forward(batch, self.pool.tensor)
        self.pool.tensor[0].zero_()


def forward_batch(
    scheduled: list[Scheduled], block_tokens: int, device: torch.device
) -> ForwardBatch:
    """Build the tensors of one forward pass; the work is per step, not per layer."""
    counts = np.array([item.count for item in scheduled], dtype=np.int64)
    starts = np.array([item.start for item in scheduled], dtype=np.int64)
    ends = starts + counts
    query_starts = np.zeros(len(scheduled) + 1, dtype=np.int64)
    np.cumsum(counts, out=query_starts[1:])
    total = int(query_starts[-1])
    max_context = int(ends.max())

    tables = np.zeros((len(scheduled), -(-max_context // block_tokens)), dtype=np.int64)
    token_ids = np.empty(total, dtype=np.int64)
    logit_rows: list[int] = []
    for row, item in enumerate(scheduled):
        used = -(-int(ends[row]) // block_tokens)
        tables[row, :used] = item.sequence.block_ids[:used]
        first = int(query_starts[row])
        token_ids[first : first + item.count] = item.sequence.tokens[
            item.start : item.start + item.count
        ]
        logit_rows.extend(first + position - item.start for position in item.logit_positions)

    owner = np.repeat(np.arange(len(scheduled)), counts)
    positions = np.arange(total) - np.repeat(query_starts[:-1] - starts, counts)
    slots = tables[owner, positions // block_tokens] * block_tokens + positions % block_tokens

    def tensor(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return ForwardBatch(
        token_ids=tensor(token_ids),
        positions=tensor(positions),
        slots=tensor(slots),
        query_starts=tensor(query_starts),
        context_lens=tensor(ends),
        block_tables=tensor(tables),
        logit_rows=tensor(np.array(logit_rows, dtype=np.int64)),
        max_query_len=int(counts.max()),
        max_context_len=max_context,
    )

"""Decode steps as CUDA graphs: one launch instead of hundreds, whose host time exceeds the GPU's.

A graph is recorded for each size of a ladder; a batch runs in the smallest that holds it, its
further rows being padding. All inputs of a step are one copy from pinned memory.
"""

from collections.abc import Sequence as Rows

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steelyard_runtime.core.batch import Scheduled
from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.models.batch import ForwardBatch, Model

# Token id, position, slot and context length of each row, then its block table.
FIELDS = 4


def batch_sizes(largest: int) -> list[int]:
    """Return the ladder up to `largest`: at most an eighth of a large batch is padding."""
    sizes = [1, 2, 4]
    while sizes[-1] < largest:
        step = max(4, 1 << max(0, sizes[-1].bit_length() - 4))
        sizes.append(sizes[-1] + step)
    return [size for size in sizes if size < largest] + [largest]


class DecodeGraphs:
    """The recorded steps. One thread at a time, one step at a time."""

    def __init__(
        self,
        model: Model,
        pool: KVPool,
        device: torch.device,
        max_sequences: int,
        max_context: int,
    ) -> None:
        self._model = model
        self._pool = pool
        self._block_tokens = pool.geometry.block_tokens
        self._width = -(-max_context // self._block_tokens)
        self._sizes = batch_sizes(max_sequences)
        cells = max_sequences * (FIELDS + self._width)
        self._device = torch.zeros(cells, dtype=torch.int64, device=device)
        pinned = torch.zeros(cells, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._pinned = pinned
        self._host: NDArray[np.int64] = pinned.numpy()
        # The host writes the next step's inputs only after this step's have been copied.
        self._copied: torch.cuda.Event | None = None
        self._tables = HostTables(max_sequences, self._width)
        # A graph, its logits, and its inputs: it reads them by address, so they must stay.
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, ForwardBatch]] = {}

    def record(self) -> None:
        """Record all sizes, the largest first, so that the smaller ones reuse its memory."""
        memory = None
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        for size in reversed(self._sizes):
            batch = self.batch(size)
            self._fill(self._host, [], size)
            self._device.copy_(self._pinned)
            graph = torch.cuda.CUDAGraph()
            with torch.inference_mode():
                self._model.forward(batch, self._pool.tensor)  # First calls allocate.
                torch.cuda.synchronize()
                with torch.cuda.graph(graph, pool=memory):
                    logits = self._model.forward(batch, self._pool.tensor)
            memory = memory or graph.pool()
            self._graphs[size] = (graph, logits, batch)

    def run(self, scheduled: Rows[Scheduled], fed: Tensor | None = None) -> Tensor | None:
        """Return logits (S, vocab), or None where the step is no plain decode step.

        The result is overwritten by the next call.

        Args:
            scheduled: the step's sequences.
            fed: (S,) int64, their last tokens on the device; None: the host knows them.
        """
        count = len(scheduled)
        if count > self._sizes[-1] or any(
            item.count != 1 or len(item.logit_positions) != 1 for item in scheduled
        ):
            return None
        size = next(size for size in self._sizes if size >= count)
        assert self._copied is not None
        self._copied.synchronize()
        cells = self._fill(self._host, scheduled, size, known=fed is None)
        self._device[:cells].copy_(self._pinned[:cells], non_blocking=True)
        self._copied.record()
        if fed is not None:
            self._device[:count].copy_(fed)
        graph, logits, _ = self._graphs[size]
        graph.replay()
        return logits[:count]

    def batch(self, size: int) -> ForwardBatch:
        """Return the tensors of a step of `size` rows: views of one buffer."""
        fields = self._device[: size * FIELDS].view(FIELDS, size)
        tables = self._device[size * FIELDS : size * (FIELDS + self._width)]
        rows = torch.arange(size + 1, device=self._device.device)
        return ForwardBatch(
            token_ids=fields[0],
            positions=fields[1],
            slots=fields[2],
            query_starts=rows,
            context_lens=fields[3],
            block_tables=tables.view(size, self._width),
            logit_rows=rows[:size],
            max_query_len=1,
            max_context_len=self._width * self._block_tokens,
            single_sequences=size,
            chunk_context_tokens=0,
        )

    def _fill(
        self, host: NDArray[np.int64], scheduled: Rows[Scheduled], size: int, *, known: bool = True
    ) -> int:
        """Write a step's inputs for `size` rows; return how many cells they take.

        Args:
            host: the buffer.
            scheduled: the step's sequences.
            size: rows of the graph.
            known: whether the sequences' last tokens are known here.
        """
        count = len(scheduled)
        fields = host[: size * FIELDS].reshape(FIELDS, size)
        cells = size * (FIELDS + self._width)
        tables = host[size * FIELDS : cells].reshape(size, self._width)
        fields[:2] = 0
        fields[2] = -1
        fields[3] = 0
        if count:
            starts = np.fromiter((item.start for item in scheduled), np.int64, count)
            if known:
                fields[0, :count] = [item.sequence.tokens[item.start] for item in scheduled]
            fields[1, :count] = starts
            fields[3, :count] = starts + 1
            tables[:count] = self._tables.take([item.sequence.block_ids for item in scheduled])
            blocks = tables[np.arange(count), starts // self._block_tokens]
            fields[2, :count] = blocks * self._block_tokens + starts % self._block_tokens
        return cells


class HostTables:
    """Block tables by row, kept between steps: a step adds few blocks, and rows rarely change."""

    def __init__(self, rows: int, width: int) -> None:
        self._cells: NDArray[np.int64] = np.zeros((rows, width), dtype=np.int64)
        # A sequence's list grows in place; after a preemption it is another list.
        self._known: list[tuple[list[int], int]] = [([], 0)] * rows

    def take(self, tables: Rows[list[int]]) -> NDArray[np.int64]:
        """Return (S, width) with each sequence's blocks; what lies behind them is undefined."""
        for row, blocks in enumerate(tables):
            known, filled = self._known[row]
            if known is not blocks:
                filled = 0
            if filled < len(blocks):
                self._cells[row, filled : len(blocks)] = blocks[filled:]
            self._known[row] = (blocks, len(blocks))
        return self._cells[: len(tables)]

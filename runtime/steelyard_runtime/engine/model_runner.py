"""Runs the model once a step: from a plan to logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steelyard_runtime.core.batch import StepPlan
from steelyard_runtime.engine.decode_graphs import DecodeGraphs
from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.engine.step_tensors import forward_batch
from steelyard_runtime.models.batch import ForwardBatch, Model
from steelyard_runtime.sampling.likeliest import likeliest


@dataclass(frozen=True, slots=True)
class PendingTokens:
    """The likeliest tokens of a step, on their way to the host.

    What comes is `NOT_FINITE` for a row that has no likeliest token; on the device it is a token
    that the next step can be fed with.
    """

    device_tokens: Tensor  # (S,) int64
    _host: Tensor
    _arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, logits: Tensor) -> "PendingTokens":
        """Begin to copy the likeliest tokens of logits (S, V)."""
        tokens, marked = likeliest(logits)
        if not tokens.is_cuda:
            return cls(tokens, marked, None)
        host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        host.copy_(marked, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return cls(tokens, host, arrived)

    def tokens(self) -> list[int]:
        """Wait for them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        tokens: list[int] = self._host.tolist()
        return tokens


class ModelRunner:
    """Runs a model over a pool. One thread at a time."""

    def __init__(self, model: Model, pool: KVPool, device: torch.device) -> None:
        self.model = model
        self.pool = pool
        self.device = device
        self.graphs: DecodeGraphs | None = None
        self.runs_ahead = device.type == "cuda"

    def run(self, plan: StepPlan) -> Tensor:
        """Return logits (R, vocab) in float32 for a plan with at least one scheduled item.

        Rows are in the order of `plan.scheduled` and, within an item, of its `logit_positions`;
        R may be 0. The result is valid until the next call.
        """
        with torch.inference_mode():
            if self.graphs is not None:
                logits = self.graphs.run(plan.scheduled)
                if logits is not None:
                    return logits
            batch = forward_batch(plan.scheduled, self.pool.geometry.block_tokens, self.device)
            return self.model.forward(batch, self.pool.tensor)

    def launch(self, plan: StepPlan, fed: Tensor | None) -> PendingTokens:
        """Launch a decode step of one token a sequence.

        Args:
            plan: the step.
            fed: (S,) int64, the sequences' last tokens on the device; None: the host knows them.
        """
        with torch.inference_mode():
            logits = self.graphs.run(plan.scheduled, fed) if self.graphs is not None else None
            if logits is None:
                size = self.pool.geometry.block_tokens
                batch = forward_batch(plan.scheduled, size, self.device, fed)
                logits = self.model.forward(batch, self.pool.tensor)
            return PendingTokens.of(logits)

    def is_usable(self) -> bool:
        """Whether the device still computes after an error; on a GPU some errors stay for ever."""
        try:
            return bool(torch.ones(1, device=self.device).item())
        except RuntimeError:
            return False

    def record_graphs(self, max_sequences: int, max_context: int) -> None:
        """Record the decode step for batches of up to `max_sequences`, where the model allows it.

        Args:
            max_sequences: the largest batch.
            max_context: tokens of the longest sequence.
        """
        if self.device.type != "cuda" or not self.model.supports_graphs:
            return
        self.graphs = DecodeGraphs(self.model, self.pool, self.device, max_sequences, max_context)
        self.graphs.record()

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
                single_sequences=int(count == 1),
                chunk_context_tokens=0 if count == 1 else count,
            )
            with torch.inference_mode():
                self.model.forward(batch, self.pool.tensor)
        self.pool.tensor[0].zero_()

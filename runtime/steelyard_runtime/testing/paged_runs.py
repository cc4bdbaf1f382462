"""Drive a model runner by hand: sequences in scattered blocks, any chunks, any mix in a step."""

import random
from pathlib import Path

import torch
from torch import Tensor

from steelyard_runtime.core.batch import Scheduled, StepPlan
from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.sequence import Sequence
from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.engine.model_runner import ModelRunner
from steelyard_runtime.models.batch import Model
from steelyard_runtime.models.checkpoint import open_checkpoint
from steelyard_runtime.models.registry import load_model

CPU = torch.device("cpu")


class PagedRun:
    """A runner whose free blocks are handed out in random order."""

    def __init__(
        self, model: Model, num_blocks: int = 256, seed: int = 0, device: torch.device = CPU
    ) -> None:
        self.block_tokens = model.kv_geometry.block_tokens
        self.runner = ModelRunner(model, KVPool(model.kv_geometry, num_blocks, device), device)
        self._free = list(range(num_blocks))
        random.Random(seed).shuffle(self._free)  # noqa: S311 - reproducible, not secret

    @classmethod
    def of_path(cls, path: Path, block_tokens: int = 16, num_blocks: int = 256) -> "PagedRun":
        """Load the checkpoint in float32 on the CPU."""
        model = load_model(open_checkpoint(path), CPU, torch.float32, block_tokens)
        return cls(model, num_blocks)

    def sequence(self, prompt: list[int], max_tokens: int = 64) -> Sequence:
        """Return a sequence with blocks for `max_tokens` more tokens."""
        count = -(-(len(prompt) + max_tokens) // self.block_tokens)
        blocks = [self._free.pop() for _ in range(count)]
        params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
        return Sequence("r", list(prompt), len(prompt), params, block_ids=blocks)

    def step(self, *work: tuple[Sequence, int]) -> list[Tensor]:
        """Compute `count` more positions of each sequence; return their logits, all positions."""
        plan = StepPlan([_scheduled(sequence, count) for sequence, count in work])
        logits = self.runner.run(plan)
        for sequence, count in work:
            sequence.num_computed += count
        return list(torch.split(logits, [count for _, count in work]))

    def greedy(self, sequences: list[Sequence], steps: int, chunk: int = 10_000) -> list[list[int]]:
        """Prefill in chunks and decode greedily, all sequences in one batch; return the outputs."""
        while any(sequence.num_output_tokens < steps for sequence in sequences):
            going = [s for s in sequences if s.num_output_tokens < steps]
            work = [(s, min(chunk, s.num_pending)) for s in going]
            for (sequence, _), logits in zip(work, self.step(*work), strict=True):
                if sequence.num_pending == 0:
                    sequence.tokens.append(int(logits[-1].argmax()))
        return [sequence.output_token_ids for sequence in sequences]


def _scheduled(sequence: Sequence, count: int) -> Scheduled:
    start = sequence.num_computed
    return Scheduled(sequence, start, count, tuple(range(start, start + count)))

"""The engine on one GPU with random weights: decode latency by batch, and tokens/s when full.

`python -m steelyard_runtime.bench.gpu --shape NAME` drives the engine itself, without HTTP.
"""

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from steelyard_runtime.bench.random_model import SHAPES
from steelyard_runtime.bench.report import table, write
from steelyard_runtime.config import TransferConfig
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.limits import SchedulerConfig
from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.engine.engine import Engine
from steelyard_runtime.engine.gpu_memory import free_for_kv
from steelyard_runtime.engine.kv_pool import KVPool
from steelyard_runtime.engine.model_runner import ModelRunner
from steelyard_runtime.ipc.messages import AddRequest
from steelyard_runtime.structured.matchers import GrammarVocabulary
from steelyard_runtime.structured.service import GrammarService
from steelyard_runtime.transfer.registry import make_transfer

BLOCK_TOKENS = 16
MAX_BATCHED_TOKENS = 8192
LATENCY_CONTEXT, LATENCY_STEPS = 1000, 64
UTILIZATION = 0.9
# What an hour of one H100 costs in the tables of peers, in dollars.
HOURLY_PRICES = (2.0, 3.0)


class Rig:
    """A whole engine without HTTP, transfer and tokenizer."""

    def __init__(self, shape: str, max_sequences: int, max_context: int, *, graphs: bool) -> None:
        device = torch.device("cuda")
        with torch.inference_mode():
            model = SHAPES[shape](device, torch.bfloat16, BLOCK_TOKENS)
        self.vocab_size = model.vocab_size
        limit = free_for_kv(model, device, UTILIZATION, MAX_BATCHED_TOKENS, max_sequences)
        self.pool = KVPool.of_bytes(model.kv_geometry, limit, device)
        self.runner = ModelRunner(model, self.pool, device)
        started = time.perf_counter()
        if graphs:
            self.runner.record_graphs(max_sequences, max_context)
        self.record_seconds = time.perf_counter() - started
        scheduler = Scheduler(
            SchedulerConfig(
                max_num_seqs=max_sequences,
                max_num_batched_tokens=MAX_BATCHED_TOKENS,
                max_waiting_requests=1 << 20,
                block_size=BLOCK_TOKENS,
                max_model_len=max_context,
            ),
            BlockManager(self.pool.num_blocks),
        )
        transfer = make_transfer(
            TransferConfig(transport="tcp", port=0),
            engine_id="bench",
            fingerprint="",
            memory=self.pool,
            environment={},
        )
        self.engine = Engine(
            scheduler=scheduler,
            runner=self.runner,
            grammars=GrammarService(lambda: GrammarVocabulary("", 0, ())),
            transfer=transfer,
            eos_token_ids=frozenset(),
            vocab_size=model.vocab_size,
            fingerprint="",
            clock_ns=time.monotonic_ns,
        )
        self._numbers = itertools.count()
        self._random = random.Random(0)

    def add(self, prompt_tokens: int, output_tokens: int) -> None:
        """Add one greedy request whose prompt shares nothing with others."""
        prompt = self._random.choices(range(self.vocab_size), k=prompt_tokens)
        params = SamplingParams(max_tokens=output_tokens, temperature=0.0, ignore_eos=True)
        self.engine.add(AddRequest(str(next(self._numbers)), prompt, params))

    def finish(self) -> tuple[int, list[float]]:
        """Step to the end; return output tokens and the seconds of each step."""
        tokens, seconds = 0, []
        while self.engine.in_flight:
            started = time.perf_counter()
            outputs = self.engine.step()
            seconds.append(time.perf_counter() - started)
            tokens += sum(len(output.token_ids) for output in outputs)
        return tokens, seconds


def latency(rig: Rig, batch: int) -> dict[str, Any]:
    """Measure decode steps of one batch at a context of about 1,000 tokens."""
    for _ in range(batch):
        rig.add(LATENCY_CONTEXT, LATENCY_STEPS)
    _, seconds = rig.finish()
    step = statistics.median(seconds[-LATENCY_STEPS // 2 :])
    return {"batch": batch, "step_ms": step * 1e3, "output_tokens_per_second": batch / step}


def saturation(rig: Rig, requests: int, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Serve so many requests that arrive at once; all time counts."""
    for _ in range(requests):
        rig.add(prompt_tokens, output_tokens)
    started = time.perf_counter()
    tokens, _ = rig.finish()
    elapsed = time.perf_counter() - started
    rate = tokens / elapsed
    row: dict[str, Any] = {
        "requests": requests,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "seconds": elapsed,
        "output_tokens_per_second": rate,
        "total_tokens_per_second": rate * (prompt_tokens + output_tokens) / output_tokens,
    }
    for price in HOURLY_PRICES:
        row[f"dollars_per_million_output_tokens_at_{price:g}_an_hour"] = price / 3600 / rate * 1e6
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one shape; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m steelyard_runtime.bench.gpu")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32, 64])
    parser.add_argument("--saturate", nargs="*", default=[], metavar="REQUESTSxINxOUT")
    parser.add_argument("--max-sequences", type=int, help="in a step; default: the largest load")
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--in-step", action="store_true", help="launch no step ahead")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a trace of 20 steps")
    parser.add_argument("--to", type=Path, default=Path("bench-results"), metavar="DIR")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.stderr.write("gpu: torch finds no CUDA device\n")
        return 1
    loads = [tuple(int(part) for part in text.split("x")) for text in given.saturate]
    longest = max([LATENCY_CONTEXT + LATENCY_STEPS, *(load[1] + load[2] for load in loads)])
    largest = max([*given.batches, *(load[0] for load in loads)])
    largest = given.max_sequences or largest
    rig = Rig(given.shape, largest, longest, graphs=not given.enforce_eager)
    rig.runner.runs_ahead = not given.in_step
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "shape": given.shape,
        "cuda_graphs": not given.enforce_eager,
        "launched_ahead": not given.in_step,
        "max_sequences": largest,
        "kv_blocks": rig.pool.num_blocks,
        "record_graphs_seconds": rig.record_seconds,
    }
    latency(rig, 1)  # First calls.
    figures["latency"] = [latency(rig, batch) for batch in given.batches]
    sys.stdout.write(f"{table(figures['latency'])}\n")
    figures["saturation"] = [saturation(rig, *load) for load in loads]
    sys.stdout.write(f"{table(figures['saturation'])}\n")
    if given.profile:
        _profile(rig, given.profile, max(given.batches))
    suffix = ("-eager" if given.enforce_eager else "") + ("-in-step" if given.in_step else "")
    suffix += f"-{given.max_sequences}" if given.max_sequences else ""
    write(f"gpu-{given.shape}{suffix}", figures, given.to)
    return 0


def _profile(rig: Rig, target: Path, batch: int) -> None:
    for _ in range(batch):
        rig.add(LATENCY_CONTEXT, LATENCY_STEPS)
    steps = LATENCY_STEPS // 2
    while rig.engine.in_flight and steps:
        rig.engine.step()
        steps -= 1
    with torch.profiler.profile() as profiler:
        for _ in range(10):
            rig.engine.step()
        torch.cuda.synchronize()
    summary = profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=25)
    target.write_text(summary)
    rig.finish()


if __name__ == "__main__":
    sys.exit(main())

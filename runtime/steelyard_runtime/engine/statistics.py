"""What the engine counts, under the metric names that the HTTP process exposes."""

import dataclasses
from typing import Any

from steelyard_runtime.core.batch import StepPlan
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.engine.failure import CAUSES
from steelyard_runtime.engine.step_sums import StepSums
from steelyard_runtime.ipc.messages import EngineStats
from steelyard_runtime.structured.service import GrammarService
from steelyard_runtime.transfer.interface import Transfer

_NANOSECONDS = 1e-9


class Statistics:
    """Counters since the start and observations since they were last taken."""

    def __init__(self, scheduler: Scheduler, transfer: Transfer, grammars: GrammarService) -> None:
        self._scheduler = scheduler
        self._transfer = transfer
        self._grammars = grammars
        self._observations: dict[str, list[float]] = {}
        self.local_recomputes = 0
        self.pulls_landed = 0
        self.busy_seconds = 0.0
        self.sequence_errors = dict.fromkeys(CAUSES, 0)
        config = scheduler.config
        self._steps = StepSums(
            scheduler.blocks.num_blocks * config.block_size,
            config.max_num_seqs,
            config.max_num_batched_tokens,
        )

    def observe_step(
        self, plan: StepPlan, started_at_ns: int, logits_at_ns: int, ended_at_ns: int
    ) -> None:
        """Note one step: its tokens, its forward pass and what came after it."""
        seconds = (ended_at_ns - started_at_ns) * _NANOSECONDS
        self.busy_seconds += seconds
        self._steps.add(plan, seconds)
        self._observe("vllm:iteration_tokens_total", float(plan.num_tokens))
        self._observe("steelyard:step_seconds", seconds)
        self._observe("steelyard:forward_seconds", (logits_at_ns - started_at_ns) * _NANOSECONDS)

    def _observe(self, name: str, value: float) -> None:
        self._observations.setdefault(name, []).append(value)

    def take(self) -> EngineStats:
        """Return everything; observations start anew."""
        gauges, counters = self.numbers()
        observations, self._observations = self._observations, {}
        return EngineStats(gauges=gauges, counters=counters, observations=observations)

    def numbers(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return gauges and counters."""
        scheduler = self._scheduler
        blocks = dataclasses.asdict(scheduler.blocks.counts())
        in_use = blocks["total"] - blocks["free"] - blocks["cached"]
        gauges = {
            "vllm:num_requests_running": float(scheduler.num_running),
            "vllm:num_requests_waiting": float(scheduler.num_waiting),
            "steelyard:num_requests_landing": float(scheduler.num_landing),
            "vllm:kv_cache_usage_perc": in_use / max(blocks["total"], 1),
        }
        for state, count in blocks.items():
            if state != "total":
                gauges[f'steelyard:blocks{{state="{state}"}}'] = float(count)
        totals = scheduler.counters
        counters = {
            "vllm:num_preemptions": float(totals.preemptions),
            "vllm:prefix_cache_queries": float(totals.prefix_queries_tokens),
            "vllm:prefix_cache_hits": float(totals.prefix_hits_tokens),
            "steelyard:local_recomputes": float(self.local_recomputes),
            "steelyard:busy_seconds": self.busy_seconds,
        }
        for cause, count in self.sequence_errors.items():
            counters[f'steelyard:sequence_errors{{cause="{cause}"}}'] = float(count)
        for more_gauges, more_counters, observed in (
            self._transfer.stats(),
            self._grammars.stats(),
        ):
            for name, values in observed.items():
                self._observations.setdefault(name, []).extend(values)
            gauges.update(more_gauges)
            counters.update(more_counters)
        return gauges, counters

    def snapshot(self) -> dict[str, Any]:
        """Return the part of a state reply that counts: blocks, sequences, fresh metrics."""
        scheduler = self._scheduler
        gauges, counters = self.numbers()
        return {
            "blocks": dataclasses.asdict(scheduler.blocks.counts()),
            "running": scheduler.num_running,
            "waiting": scheduler.num_waiting,
            "landing": scheduler.num_landing,
            "steps": self._steps.document(),
            "gauges": gauges,
            "counters": counters,
        }

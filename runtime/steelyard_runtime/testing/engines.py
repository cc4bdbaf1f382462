"""Whole engines inside a test's process: real model, real scheduler, no HTTP."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from steelyard_runtime.config import EngineConfig
from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.engine.assembly import Assembly, assemble
from steelyard_runtime.ipc.messages import AddRequest, Output, RemotePrefill
from steelyard_runtime.testing.processes import SMOLLM2, wait_for

__all__ = ["SMOLLM2", "Answer", "EngineRig"]

IDLE_SECONDS = 0.0005


@dataclass(slots=True)
class Answer:
    """Everything that one sequence got."""

    token_ids: list[int] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    @property
    def last(self) -> Output:
        """The output with the finish reason."""
        return self.outputs[-1]


class EngineRig:
    """An engine that a test steps to the end."""

    def __init__(self, model: str = SMOLLM2, **changes: Any) -> None:
        config = EngineConfig(model=model, engine_id="test", **changes)
        self.assembly: Assembly = assemble(config, on_progress=_ignore, wake=lambda: None)
        self.engine = self.assembly.engine
        self._count = 0

    def close(self) -> None:
        """Stop its threads."""
        self.assembly.close()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        remote: Sequence[RemotePrefill | None] | None = None,
        **sampling: Any,
    ) -> list[Answer]:
        """Run all prompts together; returns their answers in order."""
        settings = {"max_tokens": 64, "temperature": 0.0, **sampling}
        params = SamplingParams(**settings)
        names = []
        for index, prompt in enumerate(prompts):
            self._count += 1
            names.append(f"request-{self._count}")
            self.engine.add(
                AddRequest(
                    names[-1],
                    list(prompt),
                    params,
                    remote_prefill=remote[index] if remote else None,
                )
            )
        answers = self.finish(set(names))
        return [answers[name] for name in names]

    def wait_until_settled(self, seconds: float = 30.0) -> None:
        """Step until nothing is in flight: no sequence, no lease, no quarantined block.

        Raises:
            TimeoutError: something is still held.
        """

        def settled() -> bool:
            self.engine.step()
            counts = self.engine.statistics.snapshot()["blocks"]
            return self.engine.in_flight == 0 and not (
                counts["referenced"] or counts["leased"] or counts["quarantined"]
            )

        wait_for(settled, "no block held", seconds)

    def finish(self, names: set[str]) -> dict[str, Answer]:
        """Step until all of these requests have their last output."""
        answers = {name: Answer() for name in names}
        waiting = set(names)
        while waiting:
            for output in self.engine.step():
                answer = answers.setdefault(output.request_id, Answer())
                answer.token_ids += output.token_ids
                answer.outputs.append(output)
                if output.finish_reason is not None:
                    waiting.discard(output.request_id)
            if not self.engine.ran:
                time.sleep(IDLE_SECONDS)  # for the threads that make grammars
        return answers


def _ignore(stage: str, percent: int) -> None:
    """Progress is for people."""

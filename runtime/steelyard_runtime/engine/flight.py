"""A decode step that was launched and not read yet, and the one after it.

The GPU begins step n + 1 while the host still takes in step n (overlap scheduling, as in SGLang's
"zero-overhead batch scheduler", 2024): the tokens of step n go from sampling to the next step's
inputs on the device. Only sequences whose next token is plainly the likeliest one can do that.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from steelyard_runtime.core.batch import StepPlan
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.engine.request import LiveRequest
from steelyard_runtime.ipc.messages import AddRequest
from steelyard_runtime.sampling.processors import needs_processing
from steelyard_runtime.sampling.sampler import GREEDY_TEMPERATURE


class Pending(Protocol):
    """The likeliest tokens of a step's rows, in the plan's order, on their way to the host."""

    @property
    def device_tokens(self) -> Tensor:
        """(S,) int64."""
        ...

    def tokens(self) -> list[int]:
        """Wait for them."""
        ...


class Launcher(Protocol):
    """What can launch a step whose tokens are only on the device."""

    runs_ahead: bool
    """Whether it is of use: the device works while the host goes on."""

    def launch(self, plan: StepPlan, fed: Tensor | None) -> Pending:
        """Launch a plan of one token a sequence; `fed` (S,) int64 has them, None: the host has."""
        ...


@dataclass(frozen=True, slots=True)
class Flight:
    """A launched step."""

    plan: StepPlan
    pending: Pending
    launched_at_ns: int


def is_plain(message: AddRequest) -> bool:
    """Whether a request's tokens are the likeliest ones and nothing else of a step is asked for."""
    params = message.params
    return (
        params.temperature < GREEDY_TEMPERATURE
        and not needs_processing(params, 0)
        and params.logprobs is None
        and params.prompt_logprobs is None
        and not message.export_kv
    )


def can_fly(plan: StepPlan, live: dict[str, LiveRequest]) -> bool:
    """Whether a plan is a decode step of plain sequences."""
    return all(
        item.count == 1 and item.samples and live[item.sequence.request_id].is_plain
        for item in plan.scheduled
    )


def launch_next(
    flight: Flight, scheduler: Scheduler, runner: Launcher, now_ns: int
) -> Flight | None:
    """Launch the step after one that is in flight, where it is sure to be another decode step."""
    plan = scheduler.ahead(flight.plan)
    if plan is None:
        return None
    fed = flight.pending.device_tokens
    if len(plan.scheduled) != len(flight.plan.scheduled):
        going = {id(item.sequence) for item in plan.scheduled}
        rows = [row for row, item in enumerate(flight.plan.scheduled) if id(item.sequence) in going]
        fed = fed[rows]
    return Flight(plan, runner.launch(plan, fed), now_ns)

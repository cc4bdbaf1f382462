"""A decode step that was launched and not read yet, and the one after it.

The GPU begins step n + 1 while the host still takes in step n (overlap scheduling, as in SGLang's
"zero-overhead batch scheduler", 2024): the tokens of step n go from sampling to the next step's
inputs on the device. Only sequences whose next token is plainly the likeliest one can do that.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from steelyard_runtime.core.batch import StepPlan
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.engine.request import LiveRequest
from steelyard_runtime.errors import ENDS_PROCESS
from steelyard_runtime.ipc.messages import AddRequest
from steelyard_runtime.sampling.likeliest import NOT_FINITE, NotFiniteLogitsError
from steelyard_runtime.sampling.processors import needs_processing
from steelyard_runtime.sampling.sampler import GREEDY_TEMPERATURE

log = logging.getLogger(__name__)


class Pending(Protocol):
    """The likeliest tokens of a step's rows, in the plan's order, on their way to the host.

    `NOT_FINITE` comes to the host where a row has none; the device has a valid token there, too.
    """

    @property
    def device_tokens(self) -> Tensor:
        """(S,) int64."""
        ...

    def tokens(self) -> list[int]:
        """Wait for them."""
        ...


class Runner(Protocol):
    """Runs a plan through the model."""

    runs_ahead: bool
    """Whether launches are of use: the device works while the host goes on."""

    def run(self, plan: StepPlan) -> Tensor:
        """Return logits (R, V) float32, rows in the plan's order."""
        ...

    def is_usable(self) -> bool:
        """Whether the device still computes after an error."""
        ...

    def launch(self, plan: StepPlan, fed: Tensor | None) -> Pending:
        """Launch a plan of one token a sequence; `fed` (S,) int64 has them, None: the host has."""
        ...


@dataclass(frozen=True, slots=True)
class Flight:
    """A launched step; without `pending` its launch failed, and it is to be run on its own."""

    plan: StepPlan
    pending: Pending | None
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


def launch_first(plan: StepPlan, runner: Runner, now_ns: int) -> Flight | None:
    """Launch a step whose inputs the host knows; None where that failed and nothing runs."""
    try:
        return Flight(plan, runner.launch(plan, None), now_ns)
    except ENDS_PROCESS:
        raise
    except BaseException as error:
        log.warning("a launch failed; its step runs without it", exc_info=error)
        return None


def wait_for_tokens(
    plan: StepPlan, pending: Pending, runner: Runner
) -> Sequence[int | BaseException]:
    """Wait for a flight's tokens, in the plan's order; a pass that failed has none for anybody.

    Raises:
        BaseException: the pass's own error, where the device is of no use any more.
    """
    try:
        tokens = pending.tokens()
    except ENDS_PROCESS:
        raise
    except BaseException as error:
        if not runner.is_usable():
            raise
        return [error] * len(plan.scheduled)
    if NOT_FINITE not in tokens:
        return tokens
    return [NotFiniteLogitsError() if token == NOT_FINITE else token for token in tokens]


def launch_next(
    plan: StepPlan, pending: Pending, scheduler: Scheduler, runner: Runner, now_ns: int
) -> Flight | None:
    """Launch the step after one that is in flight, where it is sure to be another decode step."""
    following = scheduler.ahead(plan)
    if following is None:
        return None
    try:
        fed = pending.device_tokens
        if len(following.scheduled) != len(plan.scheduled):
            going = {id(item.sequence) for item in following.scheduled}
            rows = [row for row, item in enumerate(plan.scheduled) if id(item.sequence) in going]
            fed = fed[rows]
        return Flight(following, runner.launch(following, fed), now_ns)
    except ENDS_PROCESS:
        raise
    except BaseException as error:
        # The scheduler counts on the step: it must come, in one way or the other.
        log.warning("a launch ahead failed", exc_info=error)
        return Flight(following, None, now_ns)

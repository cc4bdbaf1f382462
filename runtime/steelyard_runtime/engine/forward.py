"""A step's forward pass, where the failure of one sequence does not take the others with it."""

import logging

import torch
from torch import Tensor

from steelyard_runtime.core.batch import Scheduled, StepPlan
from steelyard_runtime.engine.failure import Failure
from steelyard_runtime.engine.flight import Runner
from steelyard_runtime.errors import ENDS_PROCESS

log = logging.getLogger(__name__)


def run_forward(runner: Runner, plan: StepPlan) -> tuple[StepPlan, Tensor, dict[str, Failure]]:
    """Return what went through the model, its logits (R, V), and the failures by request id.

    A pass that raises is repeated for each sequence by itself: a sequence's keys and values go to
    its own blocks, so that a second pass writes the same again.

    Raises:
        BaseException: the pass's own error, where the device is of no use any more.
    """
    try:
        return plan, runner.run(plan), {}
    except ENDS_PROCESS:
        raise
    except BaseException as error:
        if not runner.is_usable():
            raise
        if len(plan.scheduled) == 1:
            return StepPlan(), torch.empty(0, 0), _failures(plan, error)
        log.warning("a forward pass failed; its sequences run one by one", exc_info=error)
    done: list[Scheduled] = []
    logits: list[Tensor] = []
    failures: dict[str, Failure] = {}
    for item in plan.scheduled:
        ran, rows, failed = run_forward(runner, StepPlan([item]))
        failures |= failed
        if ran.scheduled:
            done.append(item)
            logits.append(rows.clone())  # The next pass may overwrite them.
    return StepPlan(done), torch.cat(logits) if logits else torch.empty(0, 0), failures


def _failures(plan: StepPlan, error: BaseException) -> dict[str, Failure]:
    return {item.sequence.request_id: Failure("forward", error) for item in plan.scheduled}

"""The bounds and objectives that a resource gives its planner."""

from itertools import pairwise

from steelyard_operator.api.operations import RebalancingMode, Switch
from steelyard_operator.api.roles import RoleSpec
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning.balance.signals import Limits, Objectives
from steelyard_operator.planning.desiring import worker_slots

# Where a resource names no objective: what people who read along do not mind.
TTFT_SECONDS, TPOT_SECONDS = 2.0, 0.1
LONGEST_NUMBER = 10  # digits
MAX_SEQUENCES_FLAG = "--max-num-seqs"  # of vLLM and of our engine


def is_planned(service: InferenceService) -> bool:
    """Whether a planner chooses numbers for this service."""
    spec = service.spec
    ranged = any(each.max_replicas is not None for each in (spec.prefill, spec.decode))
    off = spec.rebalancing.mode is RebalancingMode.OFF or spec.suspend is Switch.ENABLED
    return ranged and not off


def objectives(service: InferenceService) -> Objectives:
    """Return the latencies to keep."""
    given = service.spec.objectives
    ttft, tpot = given.ttft_milliseconds, given.tpot_milliseconds
    return Objectives(
        ttft_seconds=ttft / 1000 if ttft else TTFT_SECONDS,
        tpot_seconds=tpot / 1000 if tpot else TPOT_SECONDS,
        percentile=given.percentile / 100,
    )


def limits(service: InferenceService, *, can_flip: bool) -> Limits:
    """Return the bounds on workers.

    Args:
        service: the resource.
        can_flip: whether its engine can change a worker's role.
    """
    spec = service.spec
    prefill, decode = _range(spec.prefill), _range(spec.decode)
    slots = worker_slots(service)
    return Limits(
        max_workers=prefill[1] + decode[1] if slots is None else slots,
        min_prefill=prefill[0],
        max_prefill=prefill[1],
        min_decode=decode[0],
        max_decode=decode[1],
        fixed_prefill=_fixed(spec.prefill),
        fixed_decode=_fixed(spec.decode),
        flips=can_flip and spec.rebalancing.flip is Switch.ENABLED,
        min_prefill_percent=spec.capacity.min_prefill_per_decode_percent,
        max_prefill_percent=spec.capacity.max_prefill_per_decode_percent,
        dollars_per_worker_hour=hourly(service),
        ceiling_per_million_tokens=ceiling(service),
    )


def hourly(service: InferenceService) -> float:
    """Return what a worker costs an hour, 0 where no price is given."""
    spec = service.spec
    if spec.cost is None:
        return 0.0
    accelerators = max(spec.prefill.tensor_parallel, spec.decode.tensor_parallel)
    return float(spec.cost.hourly) * accelerators


def max_sequences(service: InferenceService) -> int | None:
    """Return how many sequences a worker decodes at once, where the resource says so.

    vLLM's metrics do not tell it; our engine does.
    """
    words = [word for each in service.spec.runtime.extra_args for word in each.split("=", 1)]
    for flag, value in pairwise(words):
        if flag == MAX_SEQUENCES_FLAG and value.isdecimal() and len(value) < LONGEST_NUMBER:
            return int(value)
    return None


def ceiling(service: InferenceService) -> float | None:
    """Return the most that a million tokens may cost."""
    cost = service.spec.cost
    if cost is None or cost.ceiling_per_million_tokens is None:
        return None
    return float(cost.ceiling_per_million_tokens)


def wake_up(service: InferenceService) -> tuple[int, int]:
    """Return the prefill and decode workers that a service without any begins with again."""
    spec = service.spec
    prefill, decode = _fixed(spec.prefill), _fixed(spec.decode)
    if worker_slots(service) == 1:
        # A decode worker serves alone.
        return (0, 1) if prefill is None else (prefill, decode or 0)
    return (
        max(1, _range(spec.prefill)[0]) if prefill is None else prefill,
        max(1, _range(spec.decode)[0]) if decode is None else decode,
    )


def _fixed(role: RoleSpec) -> int | None:
    return None if role.max_replicas is not None else role.start_replicas


def _range(role: RoleSpec) -> tuple[int, int]:
    if role.min_replicas is None or role.max_replicas is None:
        return role.start_replicas, role.start_replicas
    return role.min_replicas, role.max_replicas

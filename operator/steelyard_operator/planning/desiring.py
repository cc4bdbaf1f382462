"""From the resource and what exists to numbers: how many workers, of what revision, in what bounds.

Where a role has a range instead of a number, the target is that of the running plan, or else what
was recorded last; without a record it is what exists, never the start value: a lost status must not
scale a service. A wanted split changes it where `rebalancing` says so.
"""

from datetime import datetime, timedelta

from steelyard_operator.api.names import Role
from steelyard_operator.api.operations import RebalancingMode, Switch
from steelyard_operator.api.plan_status import PlanState, PlanStatus, Workers
from steelyard_operator.api.roles import RoleSpec
from steelyard_operator.api.status import InferenceServiceStatus
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.split import WantedSplit


def desired(
    service: InferenceService,
    previous: InferenceServiceStatus | None,
    seen: Observed,
    *,
    prefill_revision: str,
    decode_revision: str,
    deleting: bool,
    can_flip: bool = False,
    wanted: WantedSplit | None = None,
    now: datetime | None = None,
) -> Desired:
    """Return the target of one service.

    Args:
        service: the resource.
        previous: its status.
        seen: the facts.
        prefill_revision: the hash of what prefill workers are made from.
        decode_revision: the same for decode workers.
        deleting: whether the resource is being deleted.
        can_flip: whether the engine can change a worker's role.
        wanted: the split that was chosen for it, if any.
        now: the time; without it there is no cooldown.
    """
    spec, rollout = service.spec, service.spec.rollout
    plan = previous.plan if previous else None
    recorded = _recorded(previous)
    there = Workers(prefill=_existing(seen, Role.PREFILL), decode=_existing(seen, Role.DECODE))
    base = _base(spec.prefill, spec.decode, aimed(previous), there)
    chosen = _choice(service, plan, base, wanted, now)
    acts = chosen is not None and spec.rebalancing.mode is RebalancingMode.AUTO
    target = chosen if chosen is not None and acts else base
    return Desired(
        prefill=target.prefill,
        decode=target.decode,
        prefill_revision=prefill_revision,
        decode_revision=decode_revision,
        slots=worker_slots(service),
        max_unavailable=rollout.max_unavailable,
        max_surge=rollout.max_surge,
        drain_seconds=rollout.drain_seconds,
        progress_deadline_seconds=rollout.progress_deadline_seconds,
        pending_deadline_seconds=rollout.pending_deadline_seconds,
        paused=rollout.paused is Switch.ENABLED,
        suspended=spec.suspend is Switch.ENABLED,
        deleting=deleting,
        router_replicas=spec.router.replicas,
        flip=can_flip and spec.rebalancing.flip is Switch.ENABLED,
        ranged=frozenset(
            role
            for role, one in ((Role.PREFILL, spec.prefill), (Role.DECODE, spec.decode))
            if one.max_replicas is not None
        ),
        recorded=recorded,
        split=_told(wanted, chosen) if acts else None,
        recommended=None if acts else _told(wanted, chosen),
    )


def _choice(
    service: InferenceService,
    plan: PlanStatus | None,
    base: Workers,
    wanted: WantedSplit | None,
    now: datetime | None,
) -> Workers | None:
    """The wanted split inside the resource's bounds, where it is another and its time has come."""
    spec = service.spec
    if wanted is None or spec.rebalancing.mode is RebalancingMode.OFF:
        return None
    if plan is not None and plan.state is PlanState.RUNNING:
        return None
    rest = timedelta(seconds=spec.rebalancing.cooldown_seconds)
    if plan is not None and plan.end_time and now is not None and now < plan.end_time + rest:
        return None
    fitted = Workers(
        prefill=_within(spec.prefill, wanted.prefill, base.prefill),
        decode=_within(spec.decode, wanted.decode, base.decode),
    )
    slots = worker_slots(service)
    grows = fitted.prefill + fitted.decode > base.prefill + base.decode
    if slots is not None and grows and fitted.prefill + fitted.decode > slots:
        return None
    return fitted if fitted != base else None


def _told(wanted: WantedSplit | None, chosen: Workers | None) -> WantedSplit | None:
    """The choice as it was fitted in, with what it was chosen for."""
    if wanted is None or chosen is None:
        return None
    return WantedSplit(chosen.prefill, chosen.decode, wanted.reason, wanted.message)


def aimed(status: InferenceServiceStatus | None) -> Workers | None:
    """The numbers that are worked towards: those of a plan that is under way, or the last ones."""
    plan = status.plan if status else None
    if plan is not None and plan.state is PlanState.RUNNING:
        return plan.target
    return _recorded(status)


def _recorded(previous: InferenceServiceStatus | None) -> Workers | None:
    if previous is None or previous.prefill is None or previous.decode is None:
        return None
    prefill, decode = previous.prefill.target_replicas, previous.decode.target_replicas
    if prefill is None or decode is None:
        return None
    return Workers(prefill=prefill, decode=decode)


def _base(prefill: RoleSpec, decode: RoleSpec, last: Workers | None, there: Workers) -> Workers:
    """The target without any choice."""
    return Workers(
        prefill=_target(prefill, last.prefill if last else None, there.prefill),
        decode=_target(decode, last.decode if last else None, there.decode),
    )


def _target(role: RoleSpec, last: int | None, existing: int) -> int:
    if role.replicas is not None:
        return role.replicas
    if role.min_replicas is None or role.max_replicas is None:
        return role.start_replicas
    wanted = last if last is not None else existing or role.start_replicas
    return _within(role, wanted, wanted)


def _within(role: RoleSpec, wanted: int, fixed: int) -> int:
    """A number inside a role's range; where it has none, the number that it has."""
    if role.min_replicas is None or role.max_replicas is None:
        return fixed
    return min(max(wanted, role.min_replicas), role.max_replicas)


def _existing(seen: Observed, role: Role) -> int:
    return sum(1 for pod in seen.pods if role in pod.roles and not pod.deleting)


def worker_slots(service: InferenceService) -> int | None:
    """How many pods fit `maxAccelerators`, whatever their roles are.

    A slot is one pod; where the roles differ in size each is taken for the larger one, so that the
    bound holds for every mixture.
    """
    limit = service.spec.capacity.max_accelerators
    if limit is None:
        return None
    return limit // max(service.spec.prefill.tensor_parallel, service.spec.decode.tensor_parallel)

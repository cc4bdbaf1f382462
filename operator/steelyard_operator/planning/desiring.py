"""From the resource and what exists to numbers: how many workers, of what revision, in what bounds.

Where a role has a range instead of a number, the target is what was recorded last; without a record
it is what exists, never the start value: a lost status must not scale a service.
"""

from steelyard_operator.api.names import Role
from steelyard_operator.api.operations import Switch
from steelyard_operator.api.roles import RoleSpec
from steelyard_operator.api.status import InferenceServiceStatus, RoleStatus
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed


def desired(
    service: InferenceService,
    previous: InferenceServiceStatus | None,
    seen: Observed,
    *,
    prefill_revision: str,
    decode_revision: str,
    deleting: bool,
) -> Desired:
    """Return the target of one service."""
    spec, rollout = service.spec, service.spec.rollout
    last_prefill = previous.prefill if previous else None
    last_decode = previous.decode if previous else None
    return Desired(
        prefill=_target(spec.prefill, last_prefill, _existing(seen, Role.PREFILL)),
        decode=_target(spec.decode, last_decode, _existing(seen, Role.DECODE)),
        prefill_revision=prefill_revision,
        decode_revision=decode_revision,
        slots=_slots(service),
        max_unavailable=rollout.max_unavailable,
        max_surge=rollout.max_surge,
        drain_seconds=rollout.drain_seconds,
        progress_deadline_seconds=rollout.progress_deadline_seconds,
        pending_deadline_seconds=rollout.pending_deadline_seconds,
        paused=rollout.paused is Switch.ENABLED,
        suspended=spec.suspend is Switch.ENABLED,
        deleting=deleting,
        router_replicas=spec.router.replicas,
    )


def _target(role: RoleSpec, last: RoleStatus | None, existing: int) -> int:
    if role.replicas is not None:
        return role.replicas
    if role.min_replicas is None or role.max_replicas is None:
        return role.start_replicas
    recorded = last.target_replicas if last else None
    wanted = recorded if recorded is not None else existing or role.start_replicas
    return min(max(wanted, role.min_replicas), role.max_replicas)


def _existing(seen: Observed, role: Role) -> int:
    return sum(1 for pod in seen.pods if role in pod.roles and not pod.deleting)


def _slots(service: InferenceService) -> int | None:
    """How many pods fit `maxAccelerators`, whatever their roles are.

    A slot is one pod; where the roles differ in size each is taken for the larger one, so that the
    bound holds for every mixture.
    """
    limit = service.spec.capacity.max_accelerators
    if limit is None:
        return None
    return limit // max(service.spec.prefill.tensor_parallel, service.spec.decode.tensor_parallel)

"""Which workers leave their role now: surplus ones, and old ones that a new one has replaced.

The order is: not ready before ready, old before current, least in flight, youngest. A ready worker
goes only while enough ready ones stay, and never so that a side waits without a compatible peer.
"""

from collections import Counter

from steelyard_operator.api.names import Role
from steelyard_operator.planning.backoff import failing
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed, Pod

OTHER = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}


def victims(role: Role, want: Desired, seen: Observed, *, blocked: bool) -> list[Pod]:
    """Return the pods of a role that leave it now.

    Args:
        role: PREFILL or DECODE.
        want: the target.
        seen: the facts.
        blocked: one old worker may go although nobody replaces it yet.
    """
    pods = [pod for pod in seen.pods if role in pod.roles and not pod.deleting]
    pods.sort(key=lambda pod: _order(pod, seen, want.revision(role)))
    old = [pod for pod in pods if pod.revision != want.revision(role)]
    wanted = want.replicas(role)
    if want.paused and old:
        # Both revisions stay as they are; only what is too much for either goes.
        surge = want.max_surge if len(old) < len(pods) else 0
        return _surplus(pods, len(pods) - wanted - surge, wanted)
    new = [pod for pod in pods if pod.revision == want.revision(role)]
    chosen = _surplus(new, len(new) - wanted, wanted)
    return chosen + _replaced(role, want, seen, old=old, new=new, leaving=chosen, blocked=blocked)


def _surplus(pods: list[Pod], count: int, wanted: int) -> list[Pod]:
    """The first `count` pods, as long as `wanted` ready ones stay."""
    spare = sum(1 for pod in pods if pod.ready) - wanted
    chosen: list[Pod] = []
    for pod in pods[: max(0, count)]:
        if pod.ready:
            if spare <= 0:
                break
            spare -= 1
        chosen.append(pod)
    return chosen


def _replaced(
    role: Role,
    want: Desired,
    seen: Observed,
    *,
    old: list[Pod],
    new: list[Pod],
    leaving: list[Pod],
    blocked: bool,
) -> list[Pod]:
    """The old pods that may go: a Deployment's rules, and peers that fit."""
    wanted, bad = want.replicas(role), new_is_bad(role, seen, want.revision(role))
    gone = {pod.uid for pod in leaving}
    ready_new = sum(1 for pod in new if pod.ready and pod.uid not in gone)
    ready_old = sum(1 for pod in old if pod.ready)
    # A revision that does not start costs no worker that does.
    spare = ready_old - wanted if bad else ready_old + ready_new - wanted + want.max_unavailable
    spare = max(spare, 1) if blocked else spare
    # Where nothing new may stand beside the old, a side without a compatible peer is unavoidable:
    # decode then reads its prompts itself.
    alone = blocked or want.max_surge == 0
    chosen: list[Pod] = []
    peers = _Peers(seen)
    for pod in old:
        if not pod.ready:
            if not bad and len(old) + len(new) - len(leaving) - len(chosen) > wanted:
                chosen.append(pod)
        elif spare > 0 and (alone or peers.pair_without(pod, role)):
            spare -= 1
            chosen.append(pod)
            peers.lose(pod)
    return chosen


def new_is_bad(role: Role, seen: Observed, current: str) -> bool:
    """Whether the newest revision of a role has a pod that fails and none that is ready."""
    new = [p for p in seen.pods if role in p.roles and p.revision == current and not p.deleting]
    return any(failing(pod) for pod in new) and not any(pod.ready for pod in new)


def _order(pod: Pod, seen: Observed, current: str) -> tuple[bool, bool, int, float]:
    state = seen.states.get(pod.uid)
    in_flight = state.in_flight if state else 0
    return (pod.ready, pod.revision == current, in_flight, -pod.created_at.timestamp())


class _Peers:
    """How many ready workers there are of each fingerprint and role: a role may have thousands."""

    def __init__(self, seen: Observed) -> None:
        self._counts = Counter(
            (pod.fingerprint, role)
            for pod in seen.pods
            if pod.ready and not pod.deleting
            for role in pod.roles
        )

    def lose(self, pod: Pod) -> None:
        """Count a ready pod no more."""
        self._counts.subtract((pod.fingerprint, role) for role in pod.roles)

    def pair_without(self, pod: Pod, role: Role) -> bool:
        """Whether every worker of the other role still has a peer to exchange KV with."""
        own, other = pod.fingerprint, OTHER[role]
        if own is None or self._counts[own, role] > (role in pod.roles):
            return True
        waiting = self._counts[own, other] > (other in pod.roles)
        return not waiting or any(
            self._counts[each, role] > 0 and self._counts[each, other] > 0
            for each in {each for each, _ in self._counts}
            if each and each != own
        )

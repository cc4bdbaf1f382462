"""How many pods may be in creation in a namespace, over all of its services.

A resource may ask for thousands of pods, and there may be a thousand such resources; each pod costs
the operator, the API server and the scheduler something before it serves anybody. So those that do
not serve yet are bounded, and the bound is no queue in which a repair stands behind the growth of
others: a service that serves may always have as many in creation as serve, and one that is new its
first two.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from steelyard_operator.kube.informer import Store
from steelyard_operator.kube.queue import Key
from steelyard_operator.planning.observed import Pod

GROWING = 256
"""Pods of a namespace in creation for which no service need serve: the scheduler places some 100 a
second, and a node is better busy with a few models than with many."""
FIRST, STARTING = 2, 1024
"""Pods in creation: those that each service may begin with, until the namespace has the second."""
COUNTED_SECONDS = 0.5
"""10,000 pods are counted in 3 ms."""
LOOK_AGAIN_SECONDS = 30.0
"""A service that waits is woken once there is room; this is the fallback, in seconds."""


class Room:
    """Counts pods in creation by namespace, and who waits."""

    def __init__(
        self,
        pods: Store[Pod],
        *,
        wake: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a count of what a store has.

        Args:
            pods: the workers of all services.
            wake: asks for a pass over a service that has waited.
            clock: in seconds.
        """
        self._pods = pods
        self._wake = wake
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._counted_at = float("-inf")
        self._waiting: dict[str, dict[str, None]] = {}  # uids by namespace, the oldest first
        self._served: set[str] = set()  # uids of services that have had a ready worker
        self._ready: set[str] = set()  # uids of those that had one when it was counted last

    def grant(self, key: Key, pods: Sequence[Pod], wanted: int) -> int:
        """Return how many of the wanted pods a service may make now; they count at once.

        Args:
            key: the service.
            pods: all that it has.
            wanted: how many it would make.
        """
        namespace, uid = key
        self._count()
        there = self._counts[namespace]
        own = sum(map(is_in_creation, pods))
        ready = sum(pod.ready and not pod.deleting for pod in pods)
        if ready:
            self._served.add(uid)
        allowed = GROWING - there
        if uid in self._served or uid in self._ready:
            allowed = max(allowed, max(ready, FIRST) - own)
        elif there < STARTING:
            allowed = max(allowed, FIRST - own)
        granted = max(0, min(wanted, allowed))
        self._counts[namespace] += granted
        self._queue(key, waits=granted < wanted)
        return granted

    def serves(self, key: Key) -> bool:
        """Whether a service has, or has had, a ready worker."""
        self._count()
        return key[1] in self._served or key[1] in self._ready

    def forget(self, uid: str) -> None:
        """Drop what is known of a service that is gone."""
        self._served.discard(uid)
        for waiting in self._waiting.values():
            waiting.pop(uid, None)

    def _queue(self, key: Key, *, waits: bool) -> None:
        """Note whether a service waits, and wake those that need not any more."""
        namespace, uid = key
        waiting = self._waiting.setdefault(namespace, {})
        if waits:
            waiting.setdefault(uid)
        else:
            waiting.pop(uid, None)
        room = GROWING - self._counts[namespace]
        for other in [each for each in waiting if each != uid][: max(0, room)]:
            del waiting[other]
            self._wake((namespace, other))
        if not waiting:
            del self._waiting[namespace]

    def _count(self) -> None:
        if self._clock() - self._counted_at < COUNTED_SECONDS:
            return
        self._counted_at = self._clock()
        every = list(self._pods.every())
        self._counts = Counter(one.namespace for one in every if is_in_creation(one.record))
        self._ready = {one.controller for one in every if one.record.ready and one.controller}


def is_in_creation(pod: Pod) -> bool:
    """Whether a pod was made and does not serve yet, or not any more; one that ended is neither."""
    return not (pod.ready or pod.deleting) and pod.phase not in ("Failed", "Succeeded")

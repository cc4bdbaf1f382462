"""Which revision the next workers of a role are made from, and how many may be made.

The rules are a Deployment's: at most `maxSurge` more than asked for, and never a good worker given
for a revision that does not start. `paused` holds the change, repair goes on.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import repeat

from steelyard_operator.api.names import Role
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.observed import Observed, Pod
from steelyard_operator.planning.removal import new_is_bad


def creations(
    role: Role, want: Desired, seen: Observed, places: Sequence[Pod], resumed: int
) -> Iterator[tuple[str, str]]:
    """Yield (revision, reason) of each worker that may be made now; there may be very many.

    Args:
        role: PREFILL or DECODE.
        want: the target.
        seen: the facts.
        places: the role's pods that fill a place.
        resumed: workers that are taken back in the same plan.
    """
    wanted, current = want.replicas(role), want.revision(role)
    old = [pod for pod in places if pod.revision != current]
    kept = _kept_revision(role, seen, current)
    bad = new_is_bad(role, seen, current)
    if kept is not None and (want.paused or bad):
        # A worker that is lost meanwhile gets the template that the others serve with; one that
        # does not start fills no place.
        good = [p for p in places if p.revision != current or p.ready or not bad]
        yield from repeat((kept, "Repaired"), max(0, wanted - len(good) - resumed))
        return
    have = len(places) + resumed
    missing = max(0, wanted - have)
    yield from repeat((current, "Created"), missing)
    fresh = len(places) - len(old) + missing + resumed
    surge = min(wanted - fresh, want.max_surge - max(0, have + missing - wanted))
    if old:
        yield from repeat((current, "RollingOut"), max(0, surge))


def _kept_revision(role: Role, seen: Observed, current: str) -> str | None:
    """The old revision that most ready workers of the role have."""
    ready = Counter(
        pod.revision
        for pod in seen.pods
        if role in pod.roles and pod.ready and not pod.deleting and pod.revision != current
    )
    stored = {revision.hash for revision in seen.revisions}
    known = [revision for revision, _ in ready.most_common() if revision in stored]
    return known[0] if known else None

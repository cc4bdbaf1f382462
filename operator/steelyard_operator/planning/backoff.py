"""When a worker that failed is replaced: the delay is observed from pods, never remembered.

A failed pod stays where it is, for its logs, and tells when it ended and how often its place had
failed before.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from steelyard_operator.planning.observed import Pod

FIRST_SECONDS, LONGEST_SECONDS = 10, 300  # doubled with each failure
CRASH_LOOP_SECONDS = 20
"""Longer in CrashLoopBackOff, and a pod is replaced: the kubelet waits up to 300 s."""

KEPT_FAILED_PODS = 3
FORGIVEN_AFTER = timedelta(minutes=10)
"""A failure counts no more once a role's other pods have been ready for so long since."""

IMAGE_REASONS = frozenset(
    ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull")
)
CONFIG_REASONS = frozenset(("CreateContainerConfigError", "CreateContainerError"))


def delay_seconds(attempt: int) -> int:
    """Return how long to wait after a failure that so many failures preceded."""
    return min(FIRST_SECONDS << min(attempt, 10), LONGEST_SECONDS)


def failed(pod: Pod) -> bool:
    """Whether a pod has ended by itself and will never run again."""
    return pod.phase in ("Failed", "Succeeded") and not pod.deleting


def failing(pod: Pod) -> bool:
    """Whether a pod that is not ready has something that time alone does not mend."""
    bad = pod.waiting_reason is not None and (
        pod.waiting_reason in IMAGE_REASONS | CONFIG_REASONS
        or pod.waiting_reason == "CrashLoopBackOff"
    )
    return failed(pod) or (bad and not pod.ready)


def replace_at(pod: Pod) -> datetime | None:
    """Return when a failed or crash-looping pod is replaced; None where it is neither."""
    if failed(pod):
        ended = pod.finished_at or pod.created_at
        return ended + timedelta(seconds=delay_seconds(pod.attempt))
    if pod.waiting_reason == "CrashLoopBackOff" and not pod.ready:
        since = pod.crash_looping_since or pod.created_at
        return since + timedelta(seconds=max(CRASH_LOOP_SECONDS, delay_seconds(pod.attempt)))
    return None


def given_up(pod: Pod, now: datetime) -> bool:
    """Whether a pod failed, or crashes for so long that another takes its place."""
    at = replace_at(pod)
    return failed(pod) or (at is not None and now >= at)


def last_failure(pods: Iterable[Pod], now: datetime) -> Pod | None:
    """Return the failed pod that ended last, unless that is long ago."""
    ended = [pod for pod in pods if failed(pod)]
    latest = max(ended, key=lambda pod: pod.finished_at or pod.created_at, default=None)
    if latest is None or now - (latest.finished_at or latest.created_at) > FORGIVEN_AFTER:
        return None
    return latest

"""Writes a resource's status: through its subresource, only where it says something new.

What changes all the time (requests in flight, how far a model is loaded) is written less often than
what changes the meaning. What the status says is decided in `planning.status`.
"""

import copy
import time
from collections.abc import Callable
from typing import Any

from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.kinds import INFERENCE_SERVICE
from steelyard_operator.kube.services import Services

COUNTS_SECONDS = 30.0
WORDS_SECONDS = 5.0
ROLES = ("prefill", "decode", "router")


class Reporting:
    """Writes status, and remembers when it did."""

    def __init__(
        self, client: Client, services: Services, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._services = services
        self._clock = clock
        self._written_at: dict[str, float] = {}

    async def write(self, raw: Raw, there: dict[str, Any], wanted: dict[str, Any]) -> float | None:
        """Write a status where it differs from what is there.

        Args:
            raw: the resource as it was seen last.
            there: its status, as far as this version knows the fields.
            wanted: the whole status.

        Returns:
            After how many seconds to come again, where it is too soon for so small a change.
        """
        if there == wanted:
            return None
        uid = raw["metadata"]["uid"]
        wait = _patience(there, wanted) - (self._clock() - self._written_at.get(uid, float("-inf")))
        if wait > 0:
            return wait
        meta = raw["metadata"]
        answer = await self._client.patch(
            INFERENCE_SERVICE,
            meta["namespace"],
            meta["name"],
            [
                {"op": "test", "path": "/metadata/uid", "value": uid},
                {"op": "add", "path": "/status", "value": wanted},
            ],
            subresource="status",
        )
        self._written_at[uid] = self._clock()
        self._services.put(answer)
        return None

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a resource that is gone."""
        self._written_at.pop(uid, None)


def _patience(there: dict[str, Any], wanted: dict[str, Any]) -> float:
    """Return how long after the last write a change may wait."""
    if _without_counts(there) == _without_counts(wanted):
        return COUNTS_SECONDS
    if _without_words(there) == _without_words(wanted):
        return WORDS_SECONDS
    return 0.0


def _without_counts(status: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(status)
    for role in ROLES:
        (found.get(role) or {}).pop("inFlight", None)
    return found


def _without_words(status: dict[str, Any]) -> dict[str, Any]:
    found = _without_counts(status)
    for condition in found.get("conditions") or ():
        condition.pop("message", None)
    return found

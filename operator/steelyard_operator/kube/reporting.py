"""Writes a resource's status: through its subresource, only where it says something new.

What changes all the time (requests in flight, how far a model is loaded) is written less often than
what changes the meaning. What the status says is decided in `planning.status`.
"""

import copy
import time
from collections.abc import Callable
from typing import Any

from steelyard_operator.api.status import InferenceServiceStatus
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import Changed
from steelyard_operator.kube.kinds import INFERENCE_SERVICE
from steelyard_operator.kube.services import Services

COUNTS_SECONDS = 30.0
WORDS_SECONDS = 5.0
OVERTAKEN_SECONDS = 0.5
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
        if not (there.get("plan") or wanted.get("plan")):
            await self._patch(raw, wanted, exactly=False)
            return None
        try:
            # Somebody else's plan must not be overwritten by one that is older.
            await self._patch(raw, wanted, exactly=True)
        except Changed:
            return OVERTAKEN_SECONDS
        return None

    async def write_exactly(self, raw: Raw, wanted: dict[str, Any]) -> None:
        """Write a status unless the resource has changed since it was seen.

        Raises:
            Changed: it has.
        """
        await self._patch(raw, wanted, exactly=True)

    async def _patch(self, raw: Raw, wanted: dict[str, Any], *, exactly: bool) -> None:
        meta = raw["metadata"]
        tested = ("uid", "resourceVersion") if exactly else ("uid",)
        answer = await self._client.patch(
            INFERENCE_SERVICE,
            meta["namespace"],
            meta["name"],
            [
                *({"op": "test", "path": f"/metadata/{k}", "value": meta[k]} for k in tested),
                {"op": "add", "path": "/status", "value": wanted},
            ],
            subresource="status",
        )
        self._written_at[meta["uid"]] = self._clock()
        self._services.put(answer)

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
    for measured in ("objectives", "cost"):
        found.pop(measured, None)
    for decision in found.get("decisions") or ():
        decision.pop("realised", None)
    return found


def _without_words(status: dict[str, Any]) -> dict[str, Any]:
    found = _without_counts(status)
    for condition in found.get("conditions") or ():
        condition.pop("message", None)
    return found


def plain(found: InferenceServiceStatus | None) -> dict[str, Any]:
    """Return a status as it is written."""
    if found is None:
        return {}
    return found.model_dump(mode="json", by_alias=True, exclude_none=True)

"""Events that a user sees with `kubectl describe`: one per reason and sentence, not per pass."""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from steelyard_operator.api.names import FIELD_MANAGER
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import ApiError
from steelyard_operator.kube.kinds import EVENT, INFERENCE_SERVICE
from steelyard_operator.render.owner import Owner

log = logging.getLogger(__name__)

LONGEST_NOTE_BYTES = 1024
SAID_AGAIN_SECONDS = 600.0
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that was done to a service, or that keeps it from its goal."""

    reason: str
    note: str
    action: str
    warning: bool = False


class Events:
    """Writes events; what was said a short while ago is not said again."""

    def __init__(
        self, client: Client, instance: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._instance = instance
        self._clock = clock
        self._said: dict[tuple[str, str, str], float] = {}  # insertion-ordered

    async def tell(self, owner: Owner, happening: Happening) -> None:
        """Write one event; an event that cannot be written stops nothing."""
        what = (owner.uid, happening.reason, happening.note)
        now = self._clock()
        if now - self._said.get(what, float("-inf")) < SAID_AGAIN_SECONDS:
            return
        self._said.pop(what, None)
        self._said[what] = now
        while len(self._said) > REMEMBERED:
            del self._said[next(iter(self._said))]
        try:
            await self._client.create(EVENT, self._event(owner, happening))
        except ApiError as error:
            log.warning("%s/%s: an event was lost: %s", owner.namespace, owner.name, error)

    def _event(self, owner: Owner, happening: Happening) -> dict[str, object]:
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {
                "name": f"{owner.name}.{uuid.uuid4().hex[:16]}",
                "namespace": owner.namespace,
            },
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": "Warning" if happening.warning else "Normal",
            "reason": happening.reason,
            "note": _shortened(happening.note),
            "action": happening.action,
            "regarding": {
                "apiVersion": INFERENCE_SERVICE.api_version,
                "kind": INFERENCE_SERVICE.kind,
                "name": owner.name,
                "namespace": owner.namespace,
                "uid": owner.uid,
            },
            "reportingController": FIELD_MANAGER,
            "reportingInstance": self._instance[:128],
        }


def _shortened(note: str) -> str:
    """Return what the API server takes of it: it counts bytes, and a character may have four."""
    return note.encode()[:LONGEST_NOTE_BYTES].decode(errors="ignore")

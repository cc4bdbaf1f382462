"""Tells in a service's status why a pass over it was not done; the pass itself is over."""

import logging
from collections.abc import Callable
from datetime import datetime

from steelyard_operator.api.load import read_status
from steelyard_operator.api.status import Condition, InferenceServiceStatus
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.errors import ApiError, Refused, words
from steelyard_operator.kube.events import Events, Happening
from steelyard_operator.kube.reporting import Reporting, plain
from steelyard_operator.planning import reasons
from steelyard_operator.planning.status import interrupted, unreadable
from steelyard_operator.planning.untrusted import sentence
from steelyard_operator.render.owner import Owner

log = logging.getLogger(__name__)

LONGEST = 400


class Failures:
    """Writes the conditions of passes that end early; all others stay as they are."""

    def __init__(
        self, reporting: Reporting, events: Events, *, now: Callable[[], datetime]
    ) -> None:
        self._reporting = reporting
        self._events = events
        self._now = now

    async def tell_unreadable(self, raw: Raw, owner: Owner, said: str) -> None:
        """Say what has to be edited in a resource that cannot be read."""
        old = read_status(raw) or InferenceServiceStatus()
        generation = int(raw["metadata"]["generation"])
        made = unreadable(said, generation, old.conditions, self._whole_now())
        if await self._write(raw, old, made, generation):
            await self._events.tell(owner, Happening("NotValid", said, "Reading", warning=True))

    async def tell_failure(self, raw: Raw, error: Exception) -> None:
        """Say that a pass failed and is tried again; an API server that is away is not told of."""
        if isinstance(error, ApiError) and not isinstance(error, Refused):
            return
        try:
            old = read_status(raw) or InferenceServiceStatus()
            reason = reasons.QUOTA if isinstance(error, Refused) else reasons.INTERNAL
            made = interrupted(
                failure_words(error),
                reason,
                int(raw["metadata"]["generation"]),
                old.conditions,
                self._whole_now(),
            )
            await self._write(raw, old, [made], old.observed_generation)
        except Exception as second:  # the first one is what counts
            log.warning("a failure could not be told: %s", words(second))

    async def _write(
        self,
        raw: Raw,
        old: InferenceServiceStatus,
        conditions: list[Condition],
        generation: int | None,
    ) -> bool:
        """Write conditions where they say something new; returns whether they do."""
        known = {each.type: (each.status, each.message) for each in old.conditions}
        if all(known.get(each.type) == (each.status, each.message) for each in conditions):
            return False
        kept = [e for e in old.conditions if e.type not in {each.type for each in conditions}]
        made = old.model_copy(
            update={"conditions": [*conditions, *kept], "observed_generation": generation}
        )
        await self._reporting.write(raw, plain(read_status(raw)), plain(made))
        return True

    def _whole_now(self) -> datetime:
        return self._now().replace(microsecond=0)


def failure_words(error: Exception) -> str:
    """Return one sentence of an error that should not have been."""
    said = words(error)
    if not isinstance(error, ApiError):
        said = f"{type(error).__name__}: {said}"
    return sentence(said, LONGEST)

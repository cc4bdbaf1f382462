"""Which of its namespaces an operator may serve now; one that took its rights away stops no other.

Of several namespaces those whose resources it may not list are left out. When one of them, or one
that refused it meanwhile, lets it in again, the process begins anew: what lists and watches was
made for the others alone.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from steelyard_operator.errors import OperatorError
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import ApiError, Refused
from steelyard_operator.kube.kinds import INFERENCE_SERVICE

log = logging.getLogger(__name__)

CHECK_SECONDS = 60.0
# Whoever gives and takes rights all the time must not keep the operator from its work elsewhere.
SHORTEST_LIFE_SECONDS = 600.0


class Rights:
    """The namespaces that an operator was told to serve, and those that let it."""

    def __init__(
        self,
        client: Client,
        namespaces: Sequence[str],
        *,
        check_seconds: float = CHECK_SECONDS,
        shortest_life_seconds: float = SHORTEST_LIFE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one that has asked nothing yet.

        Args:
            client: the API server.
            namespaces: those to serve; with fewer than two there is nothing to leave out.
            check_seconds: between two questions.
            shortest_life_seconds: how long the process lives before it begins anew.
            clock: monotonic seconds.
        """
        self._client = client
        self._namespaces = tuple(namespaces)
        self._check_seconds = check_seconds
        self._clock = clock
        self._earliest_end = clock() + shortest_life_seconds
        self.served = self._namespaces

    async def read(self) -> None:
        """Leave out what refuses us; where all do, none: it is not for one of them to mend."""
        refusing = await self._refusing()
        if len(refusing) < len(self._namespaces):
            self.served = tuple(one for one in self._namespaces if one not in refusing)
        for namespace in set(self._namespaces) - set(self.served):
            log.error(
                "the namespace %s is not served: its InferenceServices may not be listed; give the "
                "rights of manifests/base/served there",
                namespace,
            )

    async def keep(self) -> None:
        """Watch for ever.

        Raises:
            OperatorError: the process must begin anew, with other namespaces than now.
        """
        if len(self._namespaces) < 2:
            await asyncio.Event().wait()
        refusing = await self._refusing()
        if lost := refusing & set(self.served):
            if lost != set(self.served):
                raise OperatorError(f"the namespace {min(lost)} refuses us by now: begins anew")
            refusing = set()
        refused = refusing | set(self._namespaces) - set(self.served)
        while True:
            await asyncio.sleep(self._check_seconds)
            refusing = await self._refusing()
            if (back := refused - refusing) and self._clock() >= self._earliest_end:
                raise OperatorError(f"the namespace {min(back)} lets us in again: begins anew")
            refused |= refusing

    async def _refusing(self) -> set[str]:
        """Return the namespaces that do not let us list their resources; no answer is not that."""
        found = set()
        for namespace in self._namespaces if len(self._namespaces) > 1 else ():
            try:
                async for _ in self._client.list_pages(INFERENCE_SERVICE, namespace, page_size=1):
                    break
            except Refused:
                found.add(namespace)
            except ApiError as error:
                log.warning("cannot tell whether %s may be served: %s", namespace, error)
        return found

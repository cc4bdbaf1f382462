"""What routers say of the demand: `GET /router/signals` on their serving port, without a key."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import aiohttp
import orjson

from steelyard_operator.api.maxima import MOST_ROUTERS
from steelyard_operator.kube.metrics import ROUTER_REQUESTS
from steelyard_operator.planning.balance.readings import RouterReading
from steelyard_operator.planning.observed import Pod
from steelyard_operator.pod_http import STATE_BYTES, ask, pod_session, pod_url
from steelyard_operator.render import ports

# Between two ticks of a quiet service.
KEEP_ALIVE_SECONDS = 75.0


class Routers:
    """The routers' signals; `async with` opens and closes the connections."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = pod_session(KEEP_ALIVE_SECONDS)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def readings(self, pods: Iterable[Pod]) -> list[RouterReading]:
        """Return what the routers say; one that does not answer is missing."""
        # A label is anybody's who may write pods: more than a service may have are not asked.
        running = [pod for pod in pods if pod.ip and pod.phase == "Running"][:MOST_ROUTERS]
        found = await asyncio.gather(*(self._reading(pod) for pod in running))
        return [each for each in found if each is not None]

    async def _reading(self, pod: Pod) -> RouterReading | None:
        assert self._session is not None, "the routers are used outside of `async with`"
        url = pod_url(pod.ip, ports.ROUTER, "/router/signals")
        try:
            answer = await ask(self._session, "GET", url, most_bytes=STATE_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            ROUTER_REQUESTS.labels("none").inc()
            return None
        ROUTER_REQUESTS.labels(answer.code).inc()
        if answer.status != 200:
            return None
        try:
            return RouterReading.read(orjson.loads(answer.content))
        except (KeyError, TypeError, ValueError):
            return None

"""What routers say of the demand: `GET /router/signals` on their serving port, without a key."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import aiohttp
import orjson

from steelyard_operator.kube.metrics import ROUTER_REQUESTS
from steelyard_operator.planning.balance.readings import RouterReading
from steelyard_operator.planning.observed import Pod
from steelyard_operator.render import ports

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
AT_A_TIME = 64
# Between two ticks of a quiet service.
KEEP_ALIVE_SECONDS = 75.0


class Routers:
    """The routers' signals; `async with` opens and closes the connections."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=AT_A_TIME, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
        )
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
        running = [pod for pod in pods if pod.ip and pod.phase == "Running"]
        found = await asyncio.gather(*(self._reading(pod) for pod in running))
        return [each for each in found if each is not None]

    async def _reading(self, pod: Pod) -> RouterReading | None:
        assert self._session is not None, "the routers are used outside of `async with`"
        host = f"[{pod.ip}]" if pod.ip and ":" in pod.ip else pod.ip
        try:
            async with self._session.get(f"http://{host}:{ports.ROUTER}/router/signals") as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            ROUTER_REQUESTS.labels("none").inc()
            return None
        ROUTER_REQUESTS.labels(str(answer.status)).inc()
        if answer.status != 200:
            return None
        try:
            return RouterReading.read(orjson.loads(content))
        except (KeyError, TypeError, ValueError):
            return None

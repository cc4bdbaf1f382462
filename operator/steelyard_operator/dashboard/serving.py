"""The page in front of a cluster: what it is told comes from the resource, its pods and routers."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import aiohttp

from steelyard_operator.api.load import read, read_status
from steelyard_operator.api.names import COMPONENT_LABEL, ROUTER, SERVICE_LABEL, WORKER
from steelyard_operator.api.status import InferenceServiceStatus
from steelyard_operator.dashboard.forwarding import Forwards
from steelyard_operator.errors import UserError
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.connecting import connected, named_service
from steelyard_operator.kube.kinds import POD
from steelyard_operator.page.chronicle import Chronicle, Look, WorkerFact
from steelyard_operator.page.routers import read_routers
from steelyard_operator.page.server import HOST, Page, serve
from steelyard_operator.planning.observed import Pod
from steelyard_operator.planning.observing import pod_record


async def serve_dashboard(
    namespace: str,
    name: str,
    context: str | None,
    port: int,
    announce: Callable[[str], None],
) -> None:
    """Serve the page until cancelled.

    Raises:
        UserError: there is no such service, no kubectl, or the port is taken.
        ApiError: the API server does not answer, or refuses.
    """
    forwards = Forwards(namespace, context)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(context))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        stack.push_async_callback(forwards.close)
        view = ClusterView(client, session, forwards, namespace, name)
        await view.facts()
        page = Page(session, view.facts, lambda: next(iter(forwards.urls), ""))
        try:
            runner, address = await serve(page, port)
        except OSError as error:
            raise UserError(
                f"--port {port} cannot be used on {HOST}: {error.strerror}; give one that is free, "
                "or 0 for any"
            ) from None
        stack.push_async_callback(runner.cleanup)
        announce(address)
        await asyncio.Event().wait()


class ClusterView:
    """Reads a service for the page."""

    def __init__(
        self,
        client: Client,
        session: aiohttp.ClientSession,
        forwards: Forwards,
        namespace: str,
        name: str,
    ) -> None:
        self._client = client
        self._session = session
        self._forwards = forwards
        self._namespace = namespace
        self._name = name
        self._chronicle = Chronicle()

    async def facts(self) -> dict[str, Any]:
        """Return what the page shows.

        Raises:
            UserError: there is no such service, or not any more.
            ApiError: the API server does not answer, or refuses.
        """
        resource = await named_service(self._client, self._namespace, self._name)
        uid = resource["metadata"]["uid"]
        mine = f"{SERVICE_LABEL}={self._name},{COMPONENT_LABEL}="
        workers = await self._client.list_controlled(POD, self._namespace, mine + WORKER, uid)
        # Those of the routers are controlled by their ReplicaSet.
        routers = [
            pod_record(raw)
            async for page, _ in self._client.list_pages(
                POD, self._namespace, selector=mine + ROUTER
            )
            for raw in page
        ]
        serving = [pod.name for pod in routers if pod.ready and not pod.deleting]
        await self._forwards.follow(serving)
        readings, in_flight = await read_routers(self._session, self._forwards.urls)
        status = read_status(resource)
        look = Look(
            seconds=time.monotonic(),
            time=_clock(datetime.now().astimezone()),
            workers=[worker_fact(pod_record(raw)) for raw in workers],
            routers=readings,
            in_flight=in_flight,
            notes=decisions(status),
        )
        return as_measured(self._chronicle.take(read(resource), look), status)


def worker_fact(pod: Pod) -> WorkerFact:
    """Return what the page shows of a pod."""
    roles = sorted(pod.roles)
    role = "both" if len(roles) > 1 else roles[0].wire if roles else "none"
    if pod.deleting:
        phase = "ending"
    elif pod.draining_since is not None or role == "none":
        phase = "draining" if pod.ready else "starting"
    else:
        phase = "ready" if pod.ready else pod.phase.lower()
    return WorkerFact(pod.name, role, phase)


def decisions(status: InferenceServiceStatus | None) -> list[tuple[str, str]]:
    """Return what the operator decided, the oldest first."""
    found = status.decisions if status else ()
    return [
        (
            _clock(one.time.astimezone()),
            f"{one.reason}: {one.target.prefill}+{one.target.decode}, {one.message}",
        )
        for one in sorted(found, key=lambda one: one.time)
    ]


def as_measured(facts: dict[str, Any], status: InferenceServiceStatus | None) -> dict[str, Any]:
    """Return facts with the operator's own figures, which cover all routers and ten minutes."""
    if status is not None and status.objectives is not None:
        seen = status.objectives
        facts["latencies"] = {
            "ttftMilliseconds": seen.ttft_milliseconds,
            "tpotMilliseconds": seen.tpot_milliseconds,
            "windowSeconds": seen.window_seconds,
        }
    if status is not None and status.cost is not None and facts["cost"]:
        facts["cost"]["perMillionTokens"] = float(status.cost.per_million_tokens)
    return facts


def _clock(moment: datetime) -> str:
    return moment.strftime("%H:%M:%S")

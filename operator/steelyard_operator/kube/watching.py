"""kopf tells of InferenceServices: how it is set up, started and ended. It does nothing else here.

kopf's own end takes seconds and cancels whatever else runs in the process, so it is started task by
task and ended by us, last of all; the process' signals stay ours.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import kopf

from steelyard_operator.api.names import GROUP, PLURAL, VERSION
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import ApiError
from steelyard_operator.kube.kinds import INFERENCE_SERVICE
from steelyard_operator.kube.services import Services

log = logging.getLogger(__name__)

# A whole number: kopf sends the first one as it is, and the API server takes no 300.0.
WATCH_SERVER_SECONDS, WATCH_CLIENT_SECONDS = 300, 330
CRD_AGAIN_SECONDS = 2.0

Connection = Callable[[], Awaitable[kopf.ConnectionInfo]]


async def watch(
    client: Client,
    namespaces: Sequence[str],
    services: Services,
    connection: Connection,
    *,
    take_signals: Callable[[], None],
) -> None:
    """Let kopf tell of resources until cancelled; the CRD must be there first, it looks once.

    Args:
        client: the API server.
        namespaces: those that are watched; none: all.
        services: hears of every change.
        connection: how kopf reaches the API server.
        take_signals: sets the process' signal handlers; kopf has set its own when it is called.
    """
    for namespace in namespaces or (None,):
        await _served(client, namespace)
    tasks = await kopf.spawn_tasks(
        registry=handlers(services, connection),
        settings=kopf_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
    )
    take_signals()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _served(client: Client, namespace: str | None) -> None:
    """Wait until resources can be listed: there is the kind, and we have the right."""
    while True:
        try:
            async for _ in client.list_pages(INFERENCE_SERVICE, namespace, page_size=1):
                break
            return
        except ApiError as error:
            log.warning("waits for InferenceServices to be served: %s", error)
            await asyncio.sleep(CRD_AGAIN_SECONDS)


def handlers(services: Services, connection: Connection) -> kopf.OperatorRegistry:
    """Return kopf's handlers: one call each."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection()

    # `on.create` and its like would write an annotation per change; a daemon adds a finalizer.
    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def saw(type: str | None, body: kopf.Body, **_: Any) -> None:
        services.saw(type, dict(body))

    return registry


def kopf_settings() -> kopf.OperatorSettings:
    """Return how kopf runs: it looks for nothing, posts nothing, and notices dead connections."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.watching.server_timeout = WATCH_SERVER_SECONDS
    settings.watching.client_timeout = WATCH_CLIENT_SECONDS
    settings.watching.connect_timeout = 10.0
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 10.0
    settings.process.ultimate_exiting_timeout = None
    return settings

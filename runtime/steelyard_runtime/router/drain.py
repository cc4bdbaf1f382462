"""How a router ends: serve on for a moment, then finish what runs, and cut no connection in use.

A client that keeps a connection may be writing its next request just when we close it, and cannot
tell whether that was begun. So each answer of a draining router says `Connection: close`, and a
connection that was last told it may stay is closed only after it has been silent for the linger.
When the process is told to end, and how long it has, is decided in `app.py` and by its flags.
"""

import asyncio
import logging
from collections.abc import Callable

from steelyard_runtime.router.service import RouterService

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.02


async def drain(
    service: RouterService,
    connections: Callable[[], int],
    *,
    linger_seconds: float,
    timeout_seconds: float,
) -> None:
    """Return when nothing is in flight and no client may still use its connection.

    New requests are served meanwhile: a load balancer may not know of another router yet.

    Args:
        service: the router.
        connections: how many connections of clients are open.
        linger_seconds: how long a silent connection is kept.
        timeout_seconds: the longest that all of this may take.
    """
    clock = asyncio.get_running_loop().time
    deadline_seconds = clock() + timeout_seconds
    service.begin_drain()
    logger.info("draining", extra={"fields": _counts(service, connections)})
    while clock() < deadline_seconds:
        silent_seconds = clock() - service.last_kept_seconds
        if not service.in_flight and (not connections() or silent_seconds >= linger_seconds):
            break
        # Connections are the HTTP server's: it tells nobody when one closes.
        await asyncio.sleep(POLL_SECONDS)
    logger.info("drained", extra={"fields": _counts(service, connections)})


def _counts(service: RouterService, connections: Callable[[], int]) -> dict[str, int]:
    return {"in_flight": service.in_flight, "connections": connections()}

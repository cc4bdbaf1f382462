"""Ask every process of a service how it is; nothing is decided here."""

import asyncio
from collections.abc import Sequence

from steelyard_operator.local.desired import Desired, Worker
from steelyard_operator.local.http_client import HttpError, get_json
from steelyard_operator.local.membership import Member

PROBE_TIMEOUT_SECONDS = 2.0


async def observe_workers(workers: Sequence[Worker], token: str) -> list[Member]:
    """Return the workers that answered, as their admin ports describe them."""
    answers = await asyncio.gather(*(_observe_worker(worker, token) for worker in workers))
    return [member for member in answers if member is not None]


async def router_answers(desired: Desired) -> int | None:
    """Return the status of the router's readiness, or None where it does not answer."""
    probe = desired.router.container.readiness
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            status, _ = await get_json(f"{desired.url}{probe.path}")
    except (HttpError, TimeoutError):
        return None
    return status


async def _observe_worker(worker: Worker, token: str) -> Member | None:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            status, state = await get_json(f"{worker.admin_url}/state", token=token)
    except (HttpError, TimeoutError):
        return None
    if status != 200 or not isinstance(state, dict):
        return None
    return Member(
        id=worker.wanted.name,
        url=worker.url,
        role=str(state.get("role", worker.role.wire)),
        phase=str(state.get("phase", "loading")),
        fingerprint=str(state.get("fingerprint") or ""),
    )

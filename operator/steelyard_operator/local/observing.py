"""Ask every process of a service how it is; nothing is decided here."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from steelyard_operator.local.desired import Worker
from steelyard_operator.local.http_client import HttpError, get_json
from steelyard_operator.local.membership import Member

PROBE_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class RouterView:
    """What the router says of its workers and of its last request."""

    healthy: frozenset[str]  # ids of the workers that it sends requests to
    last_prefill: str | None = None
    last_decode: str | None = None
    last_decision: str | None = None


async def observe_workers(workers: Sequence[Worker], token: str) -> list[Member]:
    """Return the workers that answered, as their admin ports describe them."""
    answers = await asyncio.gather(*(_observe_worker(worker, token) for worker in workers))
    return [member for member in answers if member is not None]


async def observe_router(url: str) -> RouterView | None:
    """Return what the router knows of its workers, or None where it does not answer."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            status, known = await get_json(f"{url}/router/workers")
    except (HttpError, TimeoutError):
        return None
    if status != 200 or not isinstance(known, dict):
        return None
    try:
        healthy = [str(w["id"]) for w in known.get("workers", []) if w.get("healthy")]
        last = known.get("lastPlacement") or {}
        return RouterView(
            healthy=frozenset(healthy),
            last_prefill=last.get("prefill"),
            last_decode=last.get("decode"),
            last_decision=last.get("decision"),
        )
    except (KeyError, TypeError, AttributeError):
        return None


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

"""What the page asks of routers: their signals, and how many requests each worker has."""

import asyncio
import re
from collections import Counter
from collections.abc import Sequence

import aiohttp

from steelyard_operator.planning.balance.readings import RouterReading

TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_IN_FLIGHT = re.compile(
    r'^steelyard_router:in_flight\{worker="([^"]*)"\} ([0-9.e+]+)$', re.MULTILINE
)


async def read_routers(
    session: aiohttp.ClientSession, urls: Sequence[str]
) -> tuple[list[RouterReading], dict[str, int]]:
    """Return the signals of the routers that answer, and requests by worker, over all of them."""
    answers = await asyncio.gather(*(_read(session, url) for url in urls))
    readings, in_flight = [], Counter[str]()
    for reading, page in filter(None, answers):
        readings.append(reading)
        in_flight.update({name: round(float(count)) for name, count in _IN_FLIGHT.findall(page)})
    return readings, dict(in_flight)


async def _read(session: aiohttp.ClientSession, url: str) -> tuple[RouterReading, str] | None:
    try:
        async with session.get(f"{url}/router/signals", timeout=TIMEOUT) as answer:
            document = await answer.json()
        async with session.get(f"{url}/metrics", timeout=TIMEOUT) as answer:
            page = await answer.text()
        return RouterReading.read(document), page
    except (aiohttp.ClientError, TimeoutError, OSError, KeyError, TypeError, ValueError):
        return None

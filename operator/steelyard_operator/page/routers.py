"""What the page asks of routers: their signals, and how many requests each worker has."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice

import aiohttp

from steelyard_operator.planning import untrusted
from steelyard_operator.planning.balance.readings import RouterReading
from steelyard_operator.planning.observed import MOST_IN_FLIGHT
from steelyard_operator.pod_http import METRICS_BYTES, STATE_BYTES, ask

TIMEOUT_SECONDS = 2.0
LONGEST_NAME, MOST_NAMES = 253, 10_000
_IN_FLIGHT = re.compile(
    r'^steelyard_router:in_flight\{worker="([^"\n]*)"\} ([0-9.e+]+)$', re.MULTILINE
)


async def read_routers(
    session: aiohttp.ClientSession, urls: Sequence[str]
) -> tuple[list[RouterReading], dict[str, int]]:
    """Return the signals of the routers that answer, and requests by worker, over all of them."""
    answers = await asyncio.gather(*(_read(session, url) for url in urls))
    readings, in_flight = [], Counter[str]()
    for reading, counts in filter(None, answers):
        readings.append(reading)
        in_flight.update(counts)
    return readings, dict(in_flight)


async def _read(
    session: aiohttp.ClientSession, url: str
) -> tuple[RouterReading, dict[str, int]] | None:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            said = await ask(session, "GET", f"{url}/router/signals", most_bytes=STATE_BYTES)
            page = await ask(session, "GET", f"{url}/metrics", most_bytes=METRICS_BYTES)
        reading = RouterReading.read(json.loads(said.content))
        return reading, _in_flight(page.content.decode("utf-8", "replace"))
    except (aiohttp.ClientError, TimeoutError, OSError, KeyError, TypeError, ValueError):
        return None
    except RecursionError:  # of JSON that is nested too deep
        return None


def _in_flight(page: str) -> dict[str, int]:
    """Return the requests by worker that a page of metrics tells.

    Raises:
        ValueError: a number is none, or out of bounds.
    """
    found: dict[str, int] = {}
    for line in islice(_IN_FLIGHT.finditer(page), MOST_NAMES):
        name, count = line.groups()
        number = untrusted.count(round(untrusted.amount_of(count)), MOST_IN_FLIGHT)
        found[untrusted.sentence(name, LONGEST_NAME)] = number
    return found

"""Which request ends workers: it is given up after two of them, and remembered (ADR 0020).

A death counts against a request if the connection broke before the request's first token, soon
after it was handed over, and the worker's process is really gone or restarting. All requests that
were on the worker are suspects then, and most are innocent. So a suspect is sent on alone: to a
worker that has no other suspect. If that worker dies as well, it was this one.
"""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import orjson

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.call import Call, Death
from steelyard_runtime.router.pool import Worker, WorkerPool
from steelyard_runtime.router.upstream import WorkerFailedError

logger = logging.getLogger(__name__)

# A request that kills does so when it is taken up; a later death is a coincidence.
SOON_SECONDS = 30.0
DEATHS = 2
# How long a suspect waits to be alone on a worker: little at first, since most are innocent.
FIRST_PATIENCE_SECONDS, PATIENCE_SECONDS = 5.0, 20.0
REMEMBERED_SECONDS = 600.0
REMEMBERED_REQUESTS = 4096
# What a request can be sent again with that changes nothing of what it does to a worker.
_IRRELEVANT = frozenset(
    (
        "cache_salt", "metadata", "model", "prompt_cache_key", "return_token_ids",
        "safety_identifier", "seed", "service_tier", "steelyard", "store", "stream",
        "stream_options", "user",
    )
)  # fmt: skip


class Blame:
    """Watches attempts, and knows the requests that ended workers."""

    def __init__(self, pool: WorkerPool, gone: Callable[[Worker], Awaitable[bool]]) -> None:
        """Take the workers, and how to ask whether the process of one is gone or restarting."""
        self._pool = pool
        self._gone = gone
        self._known: OrderedDict[bytes, float] = OrderedDict()  # until when each is remembered

    def refuse_known(self, call: Call) -> None:
        """Refuse a request that has ended workers lately.

        Raises:
            RequestError: 400, with what is known of it.
        """
        if not self._known:
            return
        digest = _digest(call)
        until_seconds = self._known.get(digest)
        if until_seconds is None:
            return
        if asyncio.get_running_loop().time() >= until_seconds:
            del self._known[digest]
            return
        raise RequestError(
            f"This request ended {DEATHS} workers when it was sent before; it is not tried again "
            f"for {REMEMBERED_SECONDS / 60:g} minutes.",
            code="request_ends_workers",
        )

    @contextmanager
    def attempt(self, call: Call, worker: Worker) -> Iterator[None]:
        """Watch one attempt on one worker; `weigh` what came of it when it failed."""
        clock = asyncio.get_running_loop().time
        began_seconds = clock()
        suspected = call.suspected and call.first_token_seconds is None
        if suspected:
            worker.suspects += 1
            worker.suspects_met = worker.suspects_met or worker.suspects > 1
            call.suspect_at = worker
        try:
            yield
        except WorkerFailedError as error:
            soon = clock() - began_seconds <= SOON_SECONDS
            early = call.first_token_seconds is None
            if error.broke and early and soon and worker.phase != "draining":
                asking = asyncio.ensure_future(self._gone(worker))
                call.deaths.append(Death(asking, alone=suspected and not worker.suspects_met))
            raise
        finally:
            self.cleared(call)

    def cleared(self, call: Call) -> None:
        """Note that the attempt is over, or its first token there: others may be tried."""
        worker, call.suspect_at = call.suspect_at, None
        if worker is not None:
            worker.suspects -= 1
            if not worker.suspects:
                worker.suspects_met = False
            self._pool.notify()

    async def weigh(self, call: Call) -> None:
        """Decide whether the call goes on after an attempt that failed.

        Raises:
            RequestError: 502, it is what workers die of.
        """
        if len(call.deaths) < DEATHS or not call.deaths[-1].alone:
            return
        gone = await asyncio.gather(*[death.gone for death in call.deaths])
        if not gone[-1] or sum(gone) < DEATHS:
            return
        now_seconds = asyncio.get_running_loop().time()
        self._known[_digest(call)] = now_seconds + REMEMBERED_SECONDS
        while len(self._known) > REMEMBERED_REQUESTS:
            self._known.popitem(last=False)
        logger.error(
            "a request is given up: workers die under it",
            extra={"fields": {"request_id": call.request_id, "deaths": sum(gone)}},
        )
        raise RequestError(
            f"{sum(gone)} workers ended while they began this request; it is given up.",
            status=502,
            code="request_ends_workers",
            kind="server_error",
        )


def patience_seconds(call: Call) -> float:
    """Return how long a call waits for a worker without another suspect; 0 if it is none."""
    if not call.suspected:
        return 0.0
    return FIRST_PATIENCE_SECONDS if len(call.deaths) < DEATHS else PATIENCE_SECONDS


def _digest(call: Call) -> bytes:
    fields = {name: value for name, value in call.body.items() if name not in _IRRELEVANT}
    content = call.path.encode() + orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(content, digest_size=16).digest()

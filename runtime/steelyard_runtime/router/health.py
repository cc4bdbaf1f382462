"""Health from what is observed: who is ejected, and when they come back.

A worker that refuses connections, breaks a stream or keeps answering 5xx is ejected at once and
probed with back-off; `GET /ready` readmits it. Members whose source leaves out role, phase or
fingerprint are asked for them. Idle healthy workers are not probed.
"""

import asyncio
import logging
from collections.abc import Coroutine

import aiohttp

from steelyard_runtime.router.bounded_answers import read_bounded
from steelyard_runtime.router.pool import Worker, WorkerPool
from steelyard_runtime.router.worker_info import parse_worker_info

logger = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 2.0  # also the longest that a worker which is back is not used
SERVER_ERRORS_TO_EJECT = 3  # in a row: one request may be at fault itself
INFO_POLL_SECONDS = 0.5  # while a worker is not ready
INFO_POLL_READY_SECONDS = 5.0
_MOST_METRICS_BYTES = 4 * 1024**2
# ValueError: a page without an end, or no HTTP.
_NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, ValueError)


class HealthMonitor:
    """Ejects and readmits workers of a pool."""

    def __init__(
        self, pool: WorkerPool, session: aiohttp.ClientSession, probe_timeout_seconds: float
    ) -> None:
        self._pool = pool
        self._session = session
        # An address that takes no connection is told from a process that does not answer.
        self._timeout = aiohttp.ClientTimeout(
            total=probe_timeout_seconds, sock_connect=0.75 * probe_timeout_seconds
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, worker: Worker) -> None:
        """Start to look after a new member."""
        member = worker.member
        if member.role is None or member.phase is None or member.fingerprint is None:
            self._start(self._keep_informed(worker))

    def succeeded(self, worker: Worker) -> None:
        """Note an answer of the worker that is no server error."""
        worker.consecutive_failures = 0

    def failed(self, worker: Worker) -> None:
        """Note a server error; several in a row eject."""
        worker.consecutive_failures += 1
        if worker.consecutive_failures >= SERVER_ERRORS_TO_EJECT:
            self.eject(worker, "server errors", FIRST_BACKOFF_SECONDS)

    def lost(self, worker: Worker, reason: str) -> None:
        """Note a refused or broken connection: eject, and probe at once."""
        self.eject(worker, reason, 0.0)

    def eject(self, worker: Worker, reason: str, first_delay_seconds: float) -> None:
        """Eject and probe until the worker is ready again."""
        if worker.ejected or worker.removed:
            return
        logger.warning("worker ejected", extra={"fields": {"worker": worker.id, "why": reason}})
        self._pool.eject(worker, reason)
        self._start(self._readmit(worker, first_delay_seconds))

    async def answers(self, worker: Worker) -> bool | None:
        """Whether the worker's process answers; used on requests that stall.

        None: it can be reached and is silent. It may be stopped, or its event loop may be held: the
        kernel takes connections for both, so only time tells.
        """
        try:
            async with self._session.get(
                worker.url + "/health", timeout=self._timeout, allow_redirects=False
            ) as answer:
                return answer.status == 200
        except aiohttp.ConnectionTimeoutError:
            return False
        except TimeoutError:
            return None
        except _NETWORK_ERRORS:
            return False

    async def gone(self, worker: Worker) -> bool:
        """Whether a worker whose connection broke has ended, or is starting again."""
        return not await self._ready(worker)

    async def close(self) -> None:
        """End all probes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _readmit(self, worker: Worker, delay_seconds: float) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        await asyncio.sleep(delay_seconds)
        while not worker.removed:
            if await self._ready(worker):
                self._pool.readmit(worker)
                logger.info("worker readmitted", extra={"fields": {"worker": worker.id}})
                return
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _ready(self, worker: Worker) -> bool:
        status = await self._get_status(worker, "/ready")
        if status == 404:  # An engine without a path of its own for readiness.
            status = await self._get_status(worker, "/health")
        return status == 200

    async def _get_status(self, worker: Worker, path: str) -> int:
        try:
            async with self._session.get(
                worker.url + path, timeout=self._timeout, allow_redirects=False
            ) as answer:
                return answer.status
        except _NETWORK_ERRORS:
            return 0

    async def _keep_informed(self, worker: Worker) -> None:
        while not worker.removed:
            await self._inform(worker)
            ready = worker.phase == "ready"
            await asyncio.sleep(INFO_POLL_READY_SECONDS if ready else INFO_POLL_SECONDS)

    async def _inform(self, worker: Worker) -> None:
        try:
            async with self._session.get(
                worker.url + "/metrics", timeout=self._timeout, allow_redirects=False
            ) as answer:
                content = await read_bounded(answer, _MOST_METRICS_BYTES)
                page = content.decode("utf-8", "replace") if answer.status == 200 else ""
        except _NETWORK_ERRORS:
            if not worker.member.phase and not worker.in_flight:
                self._set(worker, worker.role, "unreachable", worker.fingerprint)
            return
        info = parse_worker_info(page)
        if info is None:
            phase = "ready" if await self._ready(worker) else "loading"
            self._set(worker, worker.role, worker.member.phase or phase, worker.fingerprint)
            return
        member = worker.member
        self._set(
            worker,
            member.role or info.role or "both",
            member.phase or info.phase or "unknown",
            member.fingerprint or info.fingerprint,
        )

    def _set(self, worker: Worker, role: str, phase: str, fingerprint: str | None) -> None:
        if (role, phase, fingerprint) == (worker.role, worker.phase, worker.fingerprint):
            return
        worker.role, worker.phase, worker.fingerprint = role, phase, fingerprint
        logger.info(
            "worker changed",
            extra={"fields": {"worker": worker.id, "role": role, "phase": phase}},
        )
        self._pool.notify()

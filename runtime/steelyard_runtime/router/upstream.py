"""One POST to one worker, with every way that it can go told apart.

What a failure means for the worker (ejection) is told to the health monitor here; what it means
for the request is decided by the caller.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from steelyard_runtime.errors import SteelyardError
from steelyard_runtime.router.health import HealthMonitor
from steelyard_runtime.router.pool import Worker


class WorkerFailedError(SteelyardError):
    """The worker could not serve; another may. `reason` is a label of counters."""

    def __init__(self, reason: str, status: int = 0, body: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.body = body

    @property
    def reached(self) -> bool:
        """Whether the worker may have begun; a refused connection costs no attempt."""
        return self.reason != "connect"


class WorkerBusyError(SteelyardError):
    """The worker's queue is full (429)."""

    def __init__(self, retry_after: str) -> None:
        super().__init__("busy")
        self.retry_after_seconds = int(retry_after) if retry_after.isdigit() else 1


class WorkerRefusedError(SteelyardError):
    """The worker says that the request is wrong (4xx): so would every other."""

    def __init__(self, status: int, body: bytes, content_type: str) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.content_type = content_type


def worker_session(worker_api_key: str, connect_timeout_seconds: float) -> aiohttp.ClientSession:
    """Return the client for all workers: no limits, no cookies, no decompression.

    Idle connections are closed before the workers' own servers do it (uvicorn: after 5 s).
    """
    headers = {"User-Agent": "steelyard-router"}
    if worker_api_key:
        headers["Authorization"] = f"Bearer {worker_api_key}"
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0, use_dns_cache=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers=headers,
        skip_auto_headers=("Accept", "Accept-Encoding"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_seconds),
        read_bufsize=2**18,
    )


class Upstream:
    """Sends requests to workers and counts those in flight."""

    def __init__(self, session: aiohttp.ClientSession, health: HealthMonitor) -> None:
        self._session = session
        self._health = health

    @asynccontextmanager
    async def post(
        self, worker: Worker, path: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; the block reads the answer, which has status 200.

        A connection that breaks inside the block is the worker's failure as well. An answer that
        is not read to its end closes its connection, which cancels the request at the worker.

        Raises:
            WorkerFailedError: refused, broken or 5xx.
            WorkerBusyError: 429.
            WorkerRefusedError: any other status.
        """
        worker.in_flight += 1
        answer: aiohttp.ClientResponse | None = None
        try:
            answer = await self._session.post(worker.url + path, data=body, headers=headers)
            if answer.status != 200:
                await self._judge(worker, answer)
            yield answer
            self._health.succeeded(worker)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            self._health.lost(worker, "connect")
            raise WorkerFailedError("connect") from None
        except (aiohttp.ClientError, ConnectionError):
            self._health.lost(worker, "disconnect")
            raise WorkerFailedError("disconnect") from None
        finally:
            worker.in_flight -= 1
            if answer is not None:
                if answer.content.at_eof():
                    answer.release()
                else:
                    answer.close()

    async def _judge(self, worker: Worker, answer: aiohttp.ClientResponse) -> None:
        body = await answer.read()
        if answer.status == 429:
            raise WorkerBusyError(answer.headers.get("Retry-After", ""))
        if answer.status == 503:
            self._health.lost(worker, "unavailable")
        elif answer.status >= 500:
            self._health.failed(worker)
        if answer.status >= 500:
            raise WorkerFailedError(f"status_{answer.status}", answer.status, body)
        raise WorkerRefusedError(answer.status, body, answer.content_type)


def forwarded_headers(request_id: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return what of a client's headers goes on to workers: ids and traces, no credentials."""
    forwarded: dict[str, Any] = {"Content-Type": "application/json", "X-Request-Id": request_id}
    for name in ("traceparent", "tracestate"):
        value = headers.get(name)
        if value is not None:
            forwarded[name] = value
    return forwarded

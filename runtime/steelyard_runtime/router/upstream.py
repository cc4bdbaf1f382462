"""One POST to one worker, with every way that it can go told apart.

What a failure means for the worker (ejection) is told to the health monitor here; what it means
for the request is decided by the caller.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import orjson

from steelyard_runtime.errors import SteelyardError
from steelyard_runtime.router.health import FIRST_BACKOFF_SECONDS, HealthMonitor
from steelyard_runtime.router.pool import Worker
from steelyard_runtime.router.worker_client import ConnectError, WorkerClient, WorkerKey
from steelyard_runtime.router.worker_connection import Answer


class WorkerFailedError(SteelyardError):
    """The worker could not serve; another may. `reason` is a label of counters."""

    def __init__(self, reason: str, *, reached: bool = True) -> None:
        """Name the failure; `reached`: an engine may have begun, so this may be its doing."""
        super().__init__(reason)
        self.reason = reason
        self.reached = reached


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


def worker_session(key: WorkerKey) -> aiohttp.ClientSession:
    """Return the client for everything but completions: probes, metrics pages, `/tokenize`."""

    async def with_key(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers.update(key.headers)
        return await send(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "steelyard-router"},
        middlewares=(with_key,),
    )


class Upstream:
    """Sends completions to workers and counts those in flight."""

    def __init__(self, client: WorkerClient, health: HealthMonitor) -> None:
        self._client = client
        self._health = health

    @asynccontextmanager
    async def post(
        self, worker: Worker, path: str, body: bytes, headers: Mapping[str, str]
    ) -> AsyncIterator[Answer]:
        """Send a request; the block reads the answer, which has status 200.

        A connection that breaks inside the block is the worker's failure as well. An answer that
        is not read to its end closes its connection, which cancels the request at the worker.

        Raises:
            WorkerFailedError: refused, broken or 5xx.
            WorkerBusyError: 429.
            WorkerRefusedError: any other status.
        """
        worker.in_flight += 1
        answer: Answer | None = None
        try:
            answer = await self._client.post(worker.url, path, body, headers)
            if answer.status != 200:
                await self._judge(worker, answer)
            yield answer
            self._health.succeeded(worker)
        except ConnectError:
            self._health.lost(worker, "connect")
            raise WorkerFailedError("connect", reached=False) from None
        except ConnectionError:
            self._health.lost(worker, "disconnect")
            raise WorkerFailedError("disconnect") from None
        finally:
            worker.in_flight -= 1
            if answer is not None:
                answer.close()

    async def _judge(self, worker: Worker, answer: Answer) -> None:
        body = await answer.read()
        if answer.status == 429:
            raise WorkerBusyError(answer.headers.get("retry-after", ""))
        if answer.status == 503:
            # Not at once: a worker that says ready and refuses would be asked in a tight loop.
            self._health.eject(worker, "unavailable", FIRST_BACKOFF_SECONDS)
        elif answer.status >= 500:
            self._health.failed(worker)
        if answer.status >= 500:
            began = answer.status != 503 or not _refused_at_the_gate(body)
            raise WorkerFailedError(f"status_{answer.status}", reached=began)
        content_type = answer.headers.get("content-type", "application/json")
        raise WorkerRefusedError(answer.status, body, content_type.partition(";")[0])


def _refused_at_the_gate(body: bytes) -> bool:
    """Whether a 503 says that the worker took no requests: its engine has not seen this one."""
    try:
        code = orjson.loads(body)["error"]["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False
    return isinstance(code, str) and (code == "draining" or code.startswith("worker_"))


def forwarded_headers(request_id: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return what of a client's headers goes on to workers: ids and traces, no credentials."""
    forwarded = {"Content-Type": "application/json", "X-Request-Id": request_id}
    for name in ("traceparent", "tracestate"):
        value = headers.get(name)
        if value is not None:
            forwarded[name] = value
    return forwarded

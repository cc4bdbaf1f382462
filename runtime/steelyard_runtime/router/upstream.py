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
from steelyard_runtime.router.worker_connection import Answer, BadAnswerError

_MOST_ERROR_BYTES = 1024**2
NOT_THE_CLIENTS_FAULT = (401, 403, 407)
_DIGITS = 4  # of `Retry-After`: no client waits longer than hours
ENGINE_DEAD = "engine_dead"  # a worker's code for requests whose engine ended under them


class WorkerFailedError(SteelyardError):
    """The worker could not serve; another may. `reason` is a label of counters."""

    def __init__(self, reason: str, *, reached: bool = True, broke: bool = False) -> None:
        """Name the failure.

        Args:
            reason: a label of counters.
            reached: an engine may have begun, so this may be the request's doing.
            broke: the worker's connection, or its engine, ended.
        """
        super().__init__(reason)
        self.reason = reason
        self.reached = reached
        self.broke = broke


class WorkerBusyError(SteelyardError):
    """The worker's queue is full (429)."""

    def __init__(self, retry_after: str) -> None:
        super().__init__("busy")
        digits = retry_after[:_DIGITS]
        self.retry_after_seconds = int(digits) if digits.isascii() and digits.isdigit() else 1


class WorkerRefusedError(SteelyardError):
    """The worker says that the request is wrong (4xx): so would every other."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body


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
        except BadAnswerError:
            self._health.failed(worker)
            raise WorkerFailedError("bad_answer") from None
        except ConnectionError:
            self._health.lost(worker, "disconnect")
            raise WorkerFailedError("disconnect", broke=True) from None
        finally:
            worker.in_flight -= 1
            if answer is not None:
                answer.close()

    async def _judge(self, worker: Worker, answer: Answer) -> None:
        body = await answer.read(_MOST_ERROR_BYTES)
        status = answer.status
        if status == 429:
            raise WorkerBusyError(answer.headers.get("retry-after", ""))
        if status in NOT_THE_CLIENTS_FAULT:
            # The workers' key has just changed, or the worker is no worker.
            self._health.eject(worker, f"status {status}", FIRST_BACKOFF_SECONDS)
            raise WorkerFailedError(f"status_{status}", reached=False)
        if 400 <= status < 500:
            raise WorkerRefusedError(status, body)
        code = _code(body)
        if status == 503:
            # Not at once: a worker that says ready and refuses would be asked in a tight loop.
            self._health.eject(worker, "unavailable", FIRST_BACKOFF_SECONDS)
        else:
            self._health.failed(worker)
        # Such a 503 says that the worker took no requests: its engine has not seen this one.
        at_the_gate = status == 503 and (code == "draining" or code.startswith("worker_"))
        known = status if 500 <= status < 600 else "other"
        raise WorkerFailedError(
            f"status_{known}", reached=not at_the_gate, broke=code == ENGINE_DEAD
        )


def _code(body: bytes) -> str:
    """Return the code of an error's document; empty where there is none."""
    try:
        code = orjson.loads(body)["error"]["code"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return ""
    return code if isinstance(code, str) else ""


def forwarded_headers(request_id: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return what of a client's headers goes on to workers: ids and traces, no credentials."""
    forwarded = {"Content-Type": "application/json", "X-Request-Id": request_id}
    for name in ("traceparent", "tracestate"):
        value = headers.get(name)
        if value is not None:
            forwarded[name] = value
    return forwarded

"""What is not a completion but needs a worker: tokenising, versions, the model's length."""

import asyncio
import time

import aiohttp
import orjson
from aiohttp import web

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.bodies import BodyReader
from steelyard_runtime.router.bounded_answers import read_bounded
from steelyard_runtime.router.dispatch import none_came
from steelyard_runtime.router.pool import Worker, WorkerPool
from steelyard_runtime.router.refusals import refusal
from steelyard_runtime.router.replies import json_reply
from steelyard_runtime.router.settings import RouterSettings
from steelyard_runtime.router.transcript import token_count
from steelyard_runtime.router.upstream import (
    NOT_THE_CLIENTS_FAULT,
    WorkerRefusedError,
    forwarded_headers,
)

RETRY_SECONDS = 0.25
_MOST_BYTES = 64 * 1024**2  # the tokens of the largest body
FORWARDED = {"/tokenize": "POST", "/detokenize": "POST", "/version": "GET"}


class WorkerEndpoints:
    """Asks any worker that is ready, and waits for one as completions do."""

    def __init__(
        self,
        settings: RouterSettings,
        pool: WorkerPool,
        session: aiohttp.ClientSession,
        bodies: BodyReader,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._session = session
        self._bodies = bodies
        self._created = int(time.time())

    async def forward(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        """Let any worker answer what the router cannot: it has no tokenizer.

        Raises:
            RequestError: 503, no worker took it in time.
        """
        body = await self._bodies.read(request) if request.method == "POST" else None
        headers = forwarded_headers(request_id, request.headers)
        clock = asyncio.get_running_loop().time
        deadline_seconds = clock() + self._settings.queue_timeout_seconds
        while (remaining_seconds := deadline_seconds - clock()) > 0:
            for worker in self._pool.workers:
                if worker.routable and (reply := await self._ask(worker, request, headers, body)):
                    return reply
            # A worker that is routable and does not answer changes nothing in the pool.
            await self._pool.wait_for_change(min(remaining_seconds, RETRY_SECONDS))
        raise none_came(self._settings.queue_timeout_seconds)

    async def _ask(
        self,
        worker: Worker,
        request: web.BaseRequest,
        headers: dict[str, str],
        body: bytes | None,
    ) -> web.Response | None:
        """Return the worker's answer; None where it is not there or takes no requests now."""
        try:
            async with self._session.request(
                request.method,
                worker.url + request.path,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._settings.queue_timeout_seconds),
                allow_redirects=False,
            ) as answer:
                content = await read_bounded(answer, _MOST_BYTES)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None
        if 400 <= answer.status < 500 and answer.status not in NOT_THE_CLIENTS_FAULT:
            return refusal(WorkerRefusedError(answer.status, content))
        if answer.status != 200 or answer.content_type != "application/json":
            return None
        return web.Response(body=content, content_type="application/json")

    async def models(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        """Answer `/v1/models`: one model, and the length that workers report for it."""
        name = self._settings.served_model_name
        asked = request.path.removeprefix("/v1/models").lstrip("/")
        if asked and asked != name:
            raise RequestError(
                f"The model `{asked[:128]}` does not exist; this service serves `{name}`.",
                status=404,
                param="model",
                code="model_not_found",
                kind="not_found_error",
            )
        card = {"id": name, "object": "model", "created": self._created, "owned_by": "steelyard"}
        length = await self._max_model_len()
        if length is not None:
            card["max_model_len"] = length
        return json_reply(card if asked else {"object": "list", "data": [card]})

    async def _max_model_len(self) -> int | None:
        timeout = aiohttp.ClientTimeout(total=self._settings.probe_timeout_seconds)
        for worker in self._pool.workers:
            if worker.max_model_len is None and worker.routable:
                try:
                    async with self._session.get(
                        worker.url + "/v1/models", timeout=timeout, allow_redirects=False
                    ) as answer:
                        cards = orjson.loads(await read_bounded(answer, _MOST_BYTES))
                    worker.max_model_len = token_count(cards["data"][0]["max_model_len"])
                except (aiohttp.ClientError, TimeoutError, OSError):
                    continue
                except (LookupError, TypeError, ValueError):
                    continue  # It says something else than a model's length.
            if worker.max_model_len is not None:
                return worker.max_model_len
        return None

"""What is not a completion but needs a worker: tokenising, versions, the model's length."""

import time

import aiohttp
from aiohttp import web

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.bodies import read_body
from steelyard_runtime.router.pool import WorkerPool
from steelyard_runtime.router.replies import json_reply
from steelyard_runtime.router.settings import RouterSettings
from steelyard_runtime.router.upstream import forwarded_headers

FORWARDED = {"/tokenize": "POST", "/detokenize": "POST", "/version": "GET"}


class WorkerEndpoints:
    """Asks any worker that is ready."""

    def __init__(
        self, settings: RouterSettings, pool: WorkerPool, session: aiohttp.ClientSession
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._session = session
        self._created = int(time.time())

    async def forward(self, request: web.BaseRequest, request_id: str) -> web.StreamResponse:
        """Let any worker answer what the router cannot: it has no tokenizer."""
        body = (
            await read_body(request, self._settings.max_request_bytes)
            if request.method == "POST"
            else None
        )
        headers = forwarded_headers(request_id, request.headers)
        timeout = aiohttp.ClientTimeout(total=self._settings.queue_timeout_seconds)
        for worker in self._pool.workers:
            if not worker.routable:
                continue
            try:
                async with self._session.request(
                    request.method,
                    worker.url + request.path,
                    data=body,
                    headers=headers,
                    timeout=timeout,
                ) as answer:
                    content = await answer.read()
            except (aiohttp.ClientError, TimeoutError, OSError):
                continue
            return web.Response(
                body=content, status=answer.status, content_type=answer.content_type
            )
        raise RequestError(
            "No worker is ready.",
            status=503,
            code="no_worker",
            kind="server_error",
            retry_after_seconds=1,
        )

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
                        worker.url + "/v1/models", timeout=timeout
                    ) as answer:
                        card = (await answer.json())["data"][0]
                        worker.max_model_len = int(card["max_model_len"])
                except (aiohttp.ClientError, TimeoutError, OSError, LookupError, ValueError):
                    continue
            if worker.max_model_len is not None:
                return worker.max_model_len
        return None

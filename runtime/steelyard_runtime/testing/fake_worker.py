"""A worker without a model: docs/contract.md sections 2, 3 and 6, and faults on demand.

Runs inside a test's event loop, or as a process of its own:
`python -m steelyard_runtime.testing.fake_worker --port N`.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from steelyard_runtime.testing.fake_answer import FakeAnswer
from steelyard_runtime.testing.fake_text import prompt_token_ids


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one completion request."""

    status: int | None = None  # answer this instead
    code: str | None = None  # of that answer
    retry_after: str | None = None
    die_before_answer: bool = False
    die_after_tokens: int | None = None  # break the connection
    stop_after_tokens: int | None = None  # end the answer without `[DONE]`
    error_after_tokens: int | None = None  # send an error event
    error: dict[str, Any] = field(
        default_factory=lambda: {"message": "gone", "type": "server_error", "code": "engine_dead"}
    )
    stall_after_tokens: int | None = None  # until the worker's `resume` is set
    die_before_done: bool = False  # after the last chunk
    without_kv_params: bool = False


@dataclass(slots=True)
class Seen:
    """One request as the worker got it."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: dict[str, Any]
    cancelled: bool = False
    finished: bool = False


class FakeWorker:
    """A worker that generates `FakeText`; its attributes may be changed while it runs."""

    def __init__(
        self,
        role: str = "both",
        *,
        fingerprint: str = "f" * 16,
        tokens_per_event: int = 1,
        token_ids: bool = True,
        event_gap_seconds: float = 0.0,
    ) -> None:
        self.role = role
        self.phase = "ready"
        self.fingerprint = fingerprint
        self.tokens_per_event = tokens_per_event
        self.token_ids = token_ids  # False: an engine without `return_token_ids`
        self.event_gap_seconds = event_gap_seconds
        self.cached_tokens: Any = 0  # of each prompt that it prefills
        self.worker_info = True  # False: an engine without `steelyard:worker_info`
        self.answers_probes = True  # False: a stopped process
        self.faults: deque[Fault] = deque()
        self.seen: list[Seen] = []
        self.keep_seen = True
        self.resume = asyncio.Event()
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.BaseTransport] = set()

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> "FakeWorker":
        """Listen; on the same port as before where there was one."""
        app = web.Application(client_max_size=2**26)
        for path in ("/v1/completions", "/v1/chat/completions"):
            app.router.add_post(path, self._completion)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/version", self._version)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def refuse(self) -> None:
        """Take no new connections, as a node that is gone does; open ones stay silent."""
        if self._runner is not None:
            for site in list(self._runner.sites):
                await site.stop()

    async def kill(self) -> None:
        """Break all connections and refuse new ones, as kill -9 does."""
        runner, self._runner = self._runner, None
        if runner is not None:
            for site in list(runner.sites):
                await site.stop()
            for transport in list(self._transports):
                transport.abort()  # type: ignore[attr-defined]  # TCP transports have it
            await runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        if not self.answers_probes:
            await self.resume.wait()
        return web.json_response({"status": "ok"})

    async def _ready(self, request: web.Request) -> web.Response:
        if not self.answers_probes:
            await self.resume.wait()
        return web.json_response({"phase": self.phase}, status=200 if self.ready else 503)

    @property
    def ready(self) -> bool:
        """Whether the phase is `ready`."""
        return self.phase == "ready"

    async def _metrics(self, request: web.Request) -> web.Response:
        labels = f'role="{self.role}",phase="{self.phase}",fingerprint="{self.fingerprint}"'
        line = f"steelyard:worker_info{{{labels}}} 1.0\n" if self.worker_info else ""
        return web.Response(text=f"# HELP vllm:num_requests_running\n{line}")

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.0-fake"})

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "fake", "max_model_len": 8192}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"tokens": [1, 2, 3], "count": 3})

    async def _completion(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        seen = Seen(
            request.path, {name.lower(): one for name, one in request.headers.items()}, body
        )
        if self.keep_seen:
            self.seen.append(seen)
        assert request.transport is not None
        self._transports.add(request.transport)
        fault = self.faults.popleft() if self.faults else Fault()
        try:
            reply = await self._answer(request, body, fault)
        except (asyncio.CancelledError, ConnectionResetError):
            seen.cancelled = True
            raise asyncio.CancelledError from None
        finally:
            if request.transport is not None:
                self._transports.discard(request.transport)
        seen.finished = True
        return reply

    async def _answer(
        self, request: web.Request, body: dict[str, Any], fault: Fault
    ) -> web.StreamResponse:
        if fault.die_before_answer:
            _break(request)
        if fault.status is not None or not self.ready:
            status = fault.status or 503
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else None
            code = fault.code if fault.status else f"worker_{self.phase}"
            error = {"message": f"status {status}", "type": "server_error", "code": code}
            return web.json_response({"error": error}, status=status, headers=headers)
        if fault.stall_after_tokens == 0:
            await self.resume.wait()
        params = body.get("kv_transfer_params") or {}
        if params.get("do_remote_decode"):
            return web.json_response(self._prefill_answer(request, body, fault))
        chat = request.path == "/v1/chat/completions"
        answer = FakeAnswer(
            body,
            chat=chat,
            name=f"{request.headers['X-Request-Id']}-{self.port}",
            token_ids=self.token_ids,
            tokens_per_event=self.tokens_per_event,
        )
        if not body.get("stream"):
            return web.json_response(answer.document())
        return await self._stream(request, answer, fault)

    def _prefill_answer(
        self, request: web.Request, body: dict[str, Any], fault: Fault
    ) -> dict[str, Any]:
        tokens = len(prompt_token_ids(body))
        document: dict[str, Any] = {
            "id": "prefill",
            "choices": [],
            "usage": {
                "prompt_tokens": tokens,
                "completion_tokens": 1,
                "total_tokens": tokens + 1,
                "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            },
        }
        if not fault.without_kv_params:
            document["kv_transfer_params"] = {
                "do_remote_prefill": True,
                "do_remote_decode": False,
                "remote_block_ids": [[1, 2]],
                "remote_engine_id": f"engine-{self.port}",
                "remote_request_id": request.headers["X-Request-Id"],
                "remote_host": "127.0.0.1",
                "remote_port": 5600,
                "remote_num_tokens": tokens,
                "steelyard": {"fingerprint": self.fingerprint},
            }
        return document

    async def _stream(
        self, request: web.Request, answer: FakeAnswer, fault: Fault
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        made = 0
        for event, tokens in answer.events():
            if fault.die_after_tokens is not None and made >= fault.die_after_tokens:
                _break(request)
            if fault.stop_after_tokens is not None and made >= fault.stop_after_tokens:
                return response
            if fault.error_after_tokens is not None and made >= fault.error_after_tokens:
                await response.write(b"data: " + orjson.dumps({"error": fault.error}) + b"\n\n")
                return response
            if fault.stall_after_tokens is not None and made >= fault.stall_after_tokens:
                await self.resume.wait()
            made += tokens
            await response.write(b"data: " + orjson.dumps(event) + b"\n\n")
            await asyncio.sleep(self.event_gap_seconds)
        if fault.die_before_done:
            _break(request)
        await response.write(b"data: [DONE]\n\n")
        return response


def _break(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
    raise asyncio.CancelledError


def main() -> None:
    """Serve one fake worker until killed."""
    import argparse

    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--role", default="both")
    parser.add_argument("--event-gap-seconds", type=float, default=0.0)
    given = parser.parse_args()

    async def serve() -> None:
        worker = FakeWorker(given.role, event_gap_seconds=given.event_gap_seconds)
        worker.keep_seen = False
        worker.port = given.port
        await worker.start()
        await asyncio.Event().wait()

    uvloop.run(serve())


if __name__ == "__main__":
    main()

"""A completion from arrival to last byte: attempts on workers until one of them finishes it.

Which worker is chosen is decided in `placement.py`, how a broken stream goes on in `replay.py`.
"""

import asyncio
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from steelyard_runtime.errors import RequestError
from steelyard_runtime.router.affinity import PrefixMemory, TokenEstimator
from steelyard_runtime.router.blame import Blame
from steelyard_runtime.router.call import Call, encoded
from steelyard_runtime.router.client_stream import ClientStream
from steelyard_runtime.router.dispatch import Dispatcher, Target
from steelyard_runtime.router.health import HealthMonitor
from steelyard_runtime.router.metrics import RouterMetrics
from steelyard_runtime.router.refusals import lost, reason, refusal, refusal_document
from steelyard_runtime.router.relay import ErrorEventError, Relay
from steelyard_runtime.router.replay import (
    ReplayKind,
    is_worker_failure,
    plan_replay,
    resume_fields,
)
from steelyard_runtime.router.replies import error_event
from steelyard_runtime.router.sweeper import Sweeper, Wait
from steelyard_runtime.router.transcript import Transcript, cached_tokens, token_count
from steelyard_runtime.router.upstream import (
    ENGINE_DEAD,
    Upstream,
    WorkerBusyError,
    WorkerFailedError,
    WorkerRefusedError,
)


class Proxy:
    """Serves completions through workers."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        upstream: Upstream,
        sweeper: Sweeper,
        health: HealthMonitor,
        memory: PrefixMemory,
        estimator: TokenEstimator,
        metrics: RouterMetrics,
        blame: Blame,
        max_attempts: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._sweeper = sweeper
        self._health = health
        self._memory = memory
        self._estimator = estimator
        self._metrics = metrics
        self._blame = blame
        self._max_attempts = max_attempts

    async def whole(self, call: Call) -> web.Response:
        """Answer a request that does not stream.

        Raises:
            RequestError: no worker could serve it.
        """
        while True:
            self._blame.refuse_known(call)
            target = await self._dispatcher.next_target(call)
            try:
                document = await self._whole_once(call, target)
            except WorkerRefusedError as error:
                return refusal(error)
            except (WorkerFailedError, WorkerBusyError, TimeoutError) as error:
                await self._blame.weigh(call)
                self._note(call, target, error)
                self._metrics.retries.labels(reason(error)).inc()
                continue
            self._memory.remember(target.decode.id, call.hashes)
            return web.Response(body=document, content_type="application/json")

    async def _whole_once(self, call: Call, target: Target) -> bytes:
        body = await self._decode_body(call, target, with_prefill=True)
        content = encoded(body)
        with self._blame.attempt(call, target.decode):
            async with (
                Wait(self._sweeper, target.decode, None),
                self._upstream.post(target.decode, call.path, content, call.headers) as answer,
            ):
                content = await answer.read()
        try:
            document: dict[str, Any] = orjson.loads(content)
            document.pop("kv_transfer_params", None)
            usage = document["usage"]
            self._learn(call, token_count(usage["prompt_tokens"]) or 0, cached_tokens(usage))
            call.output_tokens = token_count(usage.get("completion_tokens")) or 0
            return orjson.dumps(document)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            self._health.failed(target.decode)
            raise WorkerFailedError("bad_answer") from None

    async def stream(self, call: Call, client: ClientStream) -> web.StreamResponse:
        """Answer a request that streams, across as many workers as it takes.

        Raises:
            RequestError: no worker could serve it, and nothing has been sent to the client.
        """
        call.client = client
        self._sweeper.streams.add(client)
        try:
            return await self._stream(call, client)
        except RequestError as error:
            if not client.opened:
                raise
            return await self._fail_midway(client, error)
        finally:
            self._sweeper.streams.discard(client)

    async def _stream(self, call: Call, client: ClientStream) -> web.StreamResponse:
        transcript = Transcript(
            choices=call.checked.choices,
            keep_token_ids=call.checked.wants_token_ids,
            keep_timing="steelyard" in call.body,
            keep_usage=call.checked.wants_usage,
        )
        kind: ReplayKind = "fresh"
        replayed = False
        while not transcript.done:
            try:
                self._blame.refuse_known(call)
                target = await self._dispatcher.next_target(call)
                try:
                    await self._stream_once(call, target, transcript, client, kind)
                except WorkerRefusedError as error:
                    if not client.opened:
                        return refusal(error)
                    await client.send(error_event(refusal_document(error)))
                    return await client.finish()
                except (WorkerFailedError, WorkerBusyError, TimeoutError) as error:
                    await self._blame.weigh(call)
                    self._note(call, target, error)
                    kind = plan_replay(transcript)
                    if kind == "fresh":
                        self._metrics.retries.labels(reason(error)).inc()
                    elif kind == "impossible":
                        raise lost() from None
                    else:
                        replayed = True
                    transcript.begin_replay(resumed=kind == "resume")
                if kind == "close":
                    await client.send(
                        transcript.closing_events(with_usage=call.checked.wants_usage)
                    )
                    break
            except RequestError:
                if replayed or kind == "impossible":
                    self._metrics.replays.labels("failed").inc()
                raise
        if replayed:
            self._metrics.replays.labels("done").inc()
        self._finish(call, transcript)
        return await client.finish()

    async def _stream_once(
        self,
        call: Call,
        target: Target,
        transcript: Transcript,
        client: ClientStream,
        kind: ReplayKind,
    ) -> None:
        """Relay one worker's stream until its end.

        Raises:
            WorkerFailedError: it broke, or ended without `[DONE]`.
        """
        fields = await self._decode_body(call, target, with_prefill=kind != "resume")
        fields["return_token_ids"] = True
        if kind == "resume":
            resume_fields(fields, transcript)
        body = encoded(fields)
        with self._blame.attempt(call, target.decode):
            await self._relay(call, target, transcript, client, body)

    async def _relay(
        self,
        call: Call,
        target: Target,
        transcript: Transcript,
        client: ClientStream,
        body: bytes,
    ) -> None:
        decode = target.decode
        async with (
            Wait(self._sweeper, decode, None) as wait,
            self._upstream.post(decode, call.path, body, call.headers) as answer,
        ):
            call.refused_since_seconds = None
            await client.open()
            first = None if call.first_token_seconds else partial(self._first_token, call, target)
            try:
                await answer.relay(Relay(answer, transcript, client, wait, first))
            except ErrorEventError:
                assert transcript.error is not None
                await self._error(transcript.error, target, client)
                transcript.done = True
                return
        if not transcript.done:
            self._health.lost(decode, "stream ended early")
            raise WorkerFailedError("eof", broke=True)

    async def _error(self, error: dict[str, Any], target: Target, client: ClientStream) -> None:
        """Take a worker's error event: the worker's failure, or the client's own."""
        if is_worker_failure(error):
            self._health.lost(target.decode, "error in a stream")
            raise WorkerFailedError("error_event", broke=error.get("code") == ENGINE_DEAD)
        await client.send(error_event({"error": error}))

    async def _decode_body(
        self, call: Call, target: Target, *, with_prefill: bool
    ) -> dict[str, Any]:
        fields = call.decode_fields()
        if with_prefill and target.prefill is not None:
            params = await self._dispatcher.prefill(call, target.prefill)
            if params is not None:
                fields["kv_transfer_params"] = params
        return fields

    def _note(self, call: Call, target: Target, error: Exception) -> None:
        """Remember a failed attempt.

        Raises:
            RequestError: it was the last one allowed.
        """
        worker_id = target.decode.id
        if isinstance(error, WorkerBusyError):
            call.busy_on.add(worker_id)
            call.retry_after_seconds = max(call.retry_after_seconds, error.retry_after_seconds)
            return
        call.failed_on.add(worker_id)
        if isinstance(error, WorkerFailedError) and not error.reached:
            if call.refused_since_seconds is None:
                call.refused_since_seconds = asyncio.get_running_loop().time()
            return  # It costs no attempt; the dispatcher bounds it by time.
        call.refused_since_seconds = None
        call.failures += 1
        if call.failures >= self._max_attempts:
            raise RequestError(
                f"{call.failures} workers failed on this request, the last one with "
                f"'{reason(error)}'; it may be sent again.",
                status=502,
                code="workers_failed",
                kind="server_error",
            ) from None

    def _first_token(self, call: Call, target: Target) -> None:
        now_seconds = asyncio.get_running_loop().time()
        call.first_token_seconds = now_seconds
        self._blame.cleared(call)
        self._metrics.ttft_seconds.observe(now_seconds - call.arrived_seconds)
        self._memory.remember(target.decode.id, call.hashes)

    def _finish(self, call: Call, transcript: Transcript) -> None:
        if transcript.prompt_tokens:
            self._learn(call, transcript.prompt_tokens, transcript.cached_tokens)
        first_seconds = call.first_token_seconds
        tokens = call.output_tokens = transcript.completion_tokens
        if first_seconds is not None and tokens > 1:
            spent_seconds = asyncio.get_running_loop().time() - first_seconds
            self._metrics.tpot_seconds.observe(spent_seconds / (tokens - 1))

    def _learn(self, call: Call, prompt_tokens: int, cached: int | None) -> None:
        call.input_tokens = prompt_tokens
        self._estimator.learn(call.characters, prompt_tokens)
        if call.decision == "warm" and not call.failures and cached is not None:
            there = 2 * cached >= prompt_tokens
            self._memory.confirm(call.worker_id, len(call.hashes), cached=there)

    async def _fail_midway(self, client: ClientStream, error: RequestError) -> web.StreamResponse:
        document = {
            "message": error.message,
            "type": error.kind,
            "param": error.param,
            "code": error.code,
        }
        await client.send(error_event({"error": document}))
        return await client.finish()

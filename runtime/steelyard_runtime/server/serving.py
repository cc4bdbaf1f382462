"""Runs a prepared generation and writes its answer: SSE events, or one JSON body.

Errors before the first byte have their own status; later ones are an event. A client that goes
away aborts its sequences at once, whether it streams or not.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from steelyard_runtime.server.answers import Answer, usage_of
from steelyard_runtime.server.event_frames import DONE, KEEP_ALIVE
from steelyard_runtime.server.failures import as_request_error, error_body, made
from steelyard_runtime.server.generation import ClientGoneError, Generation, Piece
from steelyard_runtime.server.work_threads import WorkThreads

log = logging.getLogger(__name__)

ANSWER = "writing the answer"
# The log probabilities of 3,000 positions with 20 alternatives take 25 ms to write.
INLINE_POSITIONS = 100

Result = TypeVar("Result")

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A generation that is ready to start, and how it is answered."""

    generation: Generation
    answer: Answer
    threads: WorkThreads


async def serve(
    prepared: Prepared, scope: Scope, receive: Receive, send: Send, keepalive_seconds: float
) -> None:
    """Run to the end.

    Raises:
        RequestError: the engine refused, and nothing was sent yet.
        EngineDeadError: the engine is gone, and nothing was sent yet.
        ClientGoneError: nobody reads the answer.
    """
    generation, answer = prepared.generation, prepared.answer
    watcher = asyncio.ensure_future(_watch(receive, generation))
    try:
        generation.start()
        if generation.job.resume_token_ids:
            made(ANSWER, answer.resume, generation.resumed_text)
        if answer.options.stream:
            await _stream(prepared, send, keepalive_seconds)
        else:
            body = await _collect(prepared)
            await Response(body, media_type="application/json")(scope, receive, send)
    finally:
        watcher.cancel()
        generation.close()


def log_fields(generation: Generation) -> dict[str, Any]:
    """Return what the request's log line says: lengths and times, no text."""
    return {
        "prompt_tokens": generation.num_prompt_tokens,
        "completion_tokens": generation.num_completion_tokens,
        "cached_tokens": generation.num_cached_tokens,
        **generation.timing.fields(),
    }


async def _watch(receive: Receive, generation: Generation) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.client_gone()


async def _made_of(prepared: Prepared, piece: Piece, work: Callable[[Piece], Result]) -> Result:
    """Return what an answer makes of a piece; in a thread where that would hold up others.

    Raises:
        RequestError: 500, it failed.
    """
    described = piece.prompt_logprobs or ()
    if len(described) <= INLINE_POSITIONS:
        return made(ANSWER, work, piece)
    return await prepared.threads.run(len(described), lambda: made(ANSWER, work, piece), 0)


async def _collect(prepared: Prepared) -> bytes:
    generation, answer = prepared.generation, prepared.answer
    while generation.num_unfinished or generation.has_pieces:
        for piece in await generation.next():
            await _made_of(prepared, piece, answer.collect)
    return made(ANSWER, answer.body, usage_of(generation))


async def _stream(prepared: Prepared, send: Send, keepalive_seconds: float) -> None:
    generation, answer = prepared.generation, prepared.answer
    started = False

    async def write(data: bytes) -> None:
        nonlocal started
        if not started:
            started = True
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        await send({"type": "http.response.body", "body": data, "more_body": True})

    try:
        while generation.num_unfinished or generation.has_pieces:
            pieces = await generation.next(keepalive_seconds)
            if not pieces:
                await write(KEEP_ALIVE)
                continue
            events = b"".join([await _made_of(prepared, piece, answer.events) for piece in pieces])
            if generation.num_unfinished == 0:
                events += made(ANSWER, answer.closing, usage_of(generation)) + DONE
            if events:
                await write(events)
    except ClientGoneError:
        raise
    except Exception as error:
        if not started:
            raise
        failure = as_request_error(error)
        if failure.code == "internal_error":
            log.exception("a stream failed")
        await write(b"data: " + error_body(failure) + b"\n\n")
    await send({"type": "http.response.body", "body": b"", "more_body": False})

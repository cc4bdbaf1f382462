"""From a worker's socket to a client's: one call for each read, no task in between."""

import asyncio
import contextlib
from collections.abc import Callable

from steelyard_runtime.errors import SteelyardError
from steelyard_runtime.router.client_stream import ClientStream
from steelyard_runtime.router.sweeper import Wait
from steelyard_runtime.router.transcript import Transcript
from steelyard_runtime.router.worker_connection import Answer, BadAnswerError


class ErrorEventError(SteelyardError):
    """The worker ended its stream with an error event; it is in the transcript."""


class Relay:
    """One attempt's sink for the worker's bytes."""

    __slots__ = ("_answer", "_client", "_easing", "_on_first_token", "_transcript", "_wait")

    def __init__(
        self,
        answer: Answer,
        transcript: Transcript,
        client: ClientStream,
        wait: Wait,
        on_first_token: Callable[[], None] | None,
    ) -> None:
        self._answer = answer
        self._transcript = transcript
        self._client = client
        self._wait = wait
        self._on_first_token = on_first_token
        self._easing: asyncio.Task[None] | None = None

    def __call__(self, data: bytes) -> None:
        """Take what one read brought and write at most once.

        Raises:
            BadAnswerError: it is no stream of completion chunks.
            ErrorEventError: the worker sent an error event.
        """
        self._wait.heard()
        transcript = self._transcript
        if transcript.done:
            return
        try:
            out = transcript.feed(data)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            # JSON of any form may come from a worker that is not ours.
            raise BadAnswerError("no stream of chunks") from None
        if out:
            self._client.push(out)
            if self._on_first_token is not None and transcript.begun:
                self._on_first_token()
                self._on_first_token = None
            if self._client.congested and self._easing is None:
                self._answer.pause()
                self._wait.paused = True
                self._easing = asyncio.get_running_loop().create_task(self._ease())
        if transcript.error is not None:
            raise ErrorEventError

    async def _ease(self) -> None:
        """Read on when the client has caught up."""
        with contextlib.suppress(ConnectionError):
            await self._client.drained()
        self._easing = None
        self._answer.resume()
        self._wait.paused = False
        self._wait.heard()

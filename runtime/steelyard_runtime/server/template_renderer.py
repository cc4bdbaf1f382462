"""Renders conversations in helper processes (`tokenization/template_process.py`).

One process is for short conversations and one, started when it is first needed, for long ones, so
that a long one holds up no short one. A process that does not answer in time is killed, and the
next request starts another.
"""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from steelyard_runtime.errors import CheckpointError, RequestError
from steelyard_runtime.ipc.framing import encode_frame
from steelyard_runtime.server.frame_protocol import FrameProtocol
from steelyard_runtime.tokenization.template_process import (
    FD_VARIABLE,
    GRACE_SECONDS,
    Done,
    Render,
    Templates,
)

COMMAND = (sys.executable, "-m", "steelyard_runtime.tokenization.template_process")
START_SECONDS = 60.0
# A conversation of this length is rendered in a few milliseconds, also where a template looks at
# all messages for each message.
SHORT_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True)
class RenderLimits:
    """What one rendering may take; ordinary ones take a millisecond and a few megabytes."""

    seconds: float = 5.0
    memory_bytes: int = 512 * 1024**2


class TemplateRenderer:
    """The chat templates of one model."""

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str],
        limits: RenderLimits | None = None,
    ) -> None:
        """Keep the templates; nothing is started."""
        limits = limits or RenderLimits()
        templates = Templates(
            dict(sources), dict(special_tokens), limits.seconds, limits.memory_bytes
        )
        self._short, self._long = _Helper(templates), _Helper(templates)

    async def start(self) -> None:
        """Compile the templates, and render a message of one word.

        Raises:
            CheckpointError: a template has a syntax error, or takes too long or too much memory.
        """
        await self._short.start()

    async def render(self, request: Render) -> str:
        """Return the prompt.

        Raises:
            RequestError: 400, the template refuses the conversation or takes too long; 503, no
                process can be started.
        """
        frame = encode_frame(request)
        helper = self._short if len(frame) <= SHORT_BYTES else self._long
        done = await helper.ask(frame)
        if done.error is None:
            return done.text
        if done.code in ("too_long", "too_large"):
            raise RequestError(
                f"messages: the chat template cannot render them: {done.error}",
                param="messages",
                code=f"chat_template_{done.code}",
            )
        raise RequestError(done.error, param=done.param or "messages", code=done.code)

    def close(self) -> None:
        """End the processes."""
        self._short.close()
        self._long.close()


class _Helper:
    """One process, started when it is needed; one request at a time."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates
        self._lock = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._frames: FrameProtocol | None = None
        self._answer: asyncio.Future[Done] | None = None

    async def start(self) -> None:
        """Start the process unless it runs.

        Raises:
            CheckpointError: it refuses the templates.
            RequestError: 503, it cannot be started.
        """
        async with self._lock:
            await self._start()

    async def ask(self, frame: bytes) -> Done:
        """Send a request and wait for its answer.

        Raises:
            RequestError: 503, no process can be started.
        """
        async with self._lock:
            try:
                await self._start()
            except CheckpointError as error:
                return Done(error=str(error))
            return await self._exchange(frame, self._templates.seconds)

    async def _start(self) -> None:
        if self._frames is not None and self._process is not None and self._process.poll() is None:
            return
        self.close()
        try:
            ours = self._spawn()
            _, self._frames = await asyncio.get_running_loop().create_connection(
                lambda: FrameProtocol(self._take), sock=ours
            )
        except OSError as error:
            raise RequestError(
                f"no process can be started to render chat templates: {error.strerror or error}",
                status=503,
                kind="server_error",
                retry_after_seconds=5,
            ) from None
        done = await self._exchange(encode_frame(self._templates), START_SECONDS)
        if done.error is not None:
            self.close()
            raise CheckpointError(
                f"chat template: compiled and given one message, {done.error}"
                if done.code
                else done.error
            )

    def _spawn(self) -> socket.socket:
        """Start the process; return our end of its socket."""
        ours, theirs = socket.socketpair()
        # Its parent's secrets are none of a template's business.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("STEELYARD_")}
        environment[FD_VARIABLE] = str(theirs.fileno())
        try:
            self._process = subprocess.Popen(
                COMMAND,
                env=environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    async def _exchange(self, frame: bytes, seconds: float) -> Done:
        frames = self._frames
        assert frames is not None
        self._answer = asyncio.get_running_loop().create_future()
        frames.send_frame(frame)
        try:
            async with asyncio.timeout(seconds + GRACE_SECONDS):
                either: set[asyncio.Future[Any]] = {self._answer, frames.closed}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            self.close()
            return Done(error=f"it takes more than {self._templates.seconds:g} s", code="too_long")
        except asyncio.CancelledError:
            self.close()  # Its answer would be taken for the next one's.
            raise
        if self._answer.done():
            return self._answer.result()
        self.close()
        megabytes = self._templates.memory_bytes >> 20
        return Done(error=f"it takes more than {megabytes} MiB of memory", code="too_large")

    def _take(self, body: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(msgspec.msgpack.decode(body, type=Done))

    def close(self) -> None:
        """End the process."""
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

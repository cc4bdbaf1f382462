"""The HTTP process's side of the frames: requests out, outputs to the requests' mailboxes.

It decides nothing about text or HTTP. The end of the socket is the end of the engine: all
mailboxes fail, all calls fail, `dead` is set.
"""

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from steelyard_runtime.config import EngineConfig
from steelyard_runtime.errors import EngineDeadError, RequestError
from steelyard_runtime.ipc.messages import (
    Abort,
    AddRequest,
    Call,
    EngineStats,
    Failed,
    FromEngine,
    Outputs,
    Progress,
    Ready,
    Reply,
    Shutdown,
)
from steelyard_runtime.server.frame_protocol import FrameProtocol
from steelyard_runtime.server.mailbox import Mailbox

log = logging.getLogger(__name__)

CallMethod = Literal["state", "drain", "role", "reset_prefix_cache"]


class EngineClient:
    """One engine process, as seen from the event loop."""

    def __init__(
        self, sock: socket.socket, on_stats: Callable[[EngineStats], None] = lambda stats: None
    ) -> None:
        self._sock = sock
        self._on_stats = on_stats
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._mailboxes: dict[str, Mailbox] = {}
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._call_ids = itertools.count(1)
        self._frames: FrameProtocol | None = None
        self.ready: Ready | None = None
        self.progress: Progress | None = None
        self.failure: str | None = None
        self.wrong_input = False  # why `failure`
        self.started = asyncio.Event()  # ready, failed or dead
        self.dead = asyncio.Event()

    async def run(self, config: EngineConfig) -> None:
        """Send the configuration, then read frames until the engine is gone."""
        loop = asyncio.get_running_loop()
        _, frames = await loop.create_connection(
            lambda: FrameProtocol(self._on_frame), sock=self._sock
        )
        self._frames = frames
        try:
            frames.send(config)
            error = await frames.closed
            if error is not None:
                log.error("the engine's socket failed", extra={"fields": {"error": repr(error)}})
        finally:
            self._bury()

    @property
    def is_dead(self) -> bool:
        """Whether the engine is gone."""
        return self.dead.is_set()

    def add(self, messages: list[AddRequest]) -> Mailbox:
        """Start the sequences of one request; all their outputs arrive in one mailbox.

        Raises:
            EngineDeadError: the engine is gone.
        """
        mailbox = Mailbox(asyncio.get_running_loop())
        frames = self._living()
        for message in messages:
            self._mailboxes[message.request_id] = mailbox
            frames.send(message)
        return mailbox

    def abort(self, request_id: str) -> None:
        """Free a sequence's blocks at once; nothing of it arrives any more."""
        self.forget(request_id)
        if not self.is_dead:
            self._living().send(Abort(request_id))

    def forget(self, request_id: str) -> None:
        """Drop whatever still comes for a sequence."""
        self._mailboxes.pop(request_id, None)

    async def call(
        self,
        method: CallMethod,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_seconds: float = 10.0,
    ) -> dict[str, Any]:
        """Ask the engine's control plane.

        Raises:
            EngineDeadError: the engine is gone.
            RequestError: it refused, or gave no answer in time (504).
        """
        call_id = next(self._call_ids)
        future = asyncio.get_running_loop().create_future()
        self._calls[call_id] = future
        try:
            self._living().send(Call(call_id, method, arguments or {}))
            async with asyncio.timeout(timeout_seconds):
                reply: Reply = await future
        except TimeoutError:
            message = f"the engine gave no answer to `{method}` in {timeout_seconds:g} s"
            raise RequestError(message, status=504, kind="server_error") from None
        finally:
            self._calls.pop(call_id, None)
        if reply.error:
            status = reply.error_status or 500
            kind = "server_error" if status >= 500 else "invalid_request_error"
            raise RequestError(reply.error, status=status, kind=kind)
        return reply.result

    def shut_down(self) -> None:
        """Ask the process to end."""
        if not self.is_dead and self._frames is not None:
            self._frames.send(Shutdown())

    def _living(self) -> FrameProtocol:
        if self.is_dead or self._frames is None:
            raise EngineDeadError("the engine process is gone")
        return self._frames

    def _on_frame(self, body: bytes) -> None:
        message = self._decoder.decode(body)
        match message:
            case Outputs():
                for output in message.items:
                    mailbox = self._mailboxes.get(output.request_id)
                    if mailbox is None:
                        continue
                    if output.finish_reason is not None:
                        self.forget(output.request_id)
                    mailbox.put(output)
                if message.stats is not None:
                    self._on_stats(message.stats)
            case Reply():
                future = self._calls.get(message.call_id)
                if future is not None and not future.done():
                    future.set_result(message)
            case Progress():
                self.progress = message
            case Ready():
                self.ready = message
                self.started.set()
            case Failed():
                self.failure = message.message
                self.wrong_input = message.wrong_input
                self.started.set()

    def _bury(self) -> None:
        self.dead.set()
        self.started.set()
        for mailbox in set(self._mailboxes.values()):
            mailbox.fail()
        self._mailboxes.clear()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(EngineDeadError("the engine process is gone"))
        if self._frames is not None:
            self._frames.close()

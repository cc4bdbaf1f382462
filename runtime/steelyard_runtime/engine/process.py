"""The engine process: `python -m steelyard_runtime.engine.process`.

Started by the HTTP process with one end of a socket pair in `STEELYARD_ENGINE_SOCKET_FD`; the
first frame is the `EngineConfig`. It ends when the other end is closed, however that happens.
"""

import contextlib
import gc
import logging
import os
import socket
import sys
import threading
import time
from typing import Any

import msgspec

from steelyard_runtime import logs
from steelyard_runtime.config import EngineConfig
from steelyard_runtime.engine.mailbox import Mailbox
from steelyard_runtime.errors import ConfigError
from steelyard_runtime.ipc.framing import BlockingFrames
from steelyard_runtime.ipc.messages import Call, Failed, Output, Outputs, Progress, Reply, ToEngine

SOCKET_VARIABLE = "STEELYARD_ENGINE_SOCKET_FD"
LOG_LEVEL_VARIABLE = "STEELYARD_LOG_LEVEL"
EXIT_WRONG_INPUT = 2
EXIT_ENGINE_DIED = 3

log = logging.getLogger(__name__)


class Connection:
    """Frames to and from the HTTP process; several threads send."""

    def __init__(self, sock: socket.socket) -> None:
        self._frames = BlockingFrames(sock)
        self._lock = threading.Lock()

    def read(self) -> bytes | None:
        """Return the next frame's body; None at the end."""
        return self._frames.read()

    def send(self, message: Any) -> None:
        """Send one message; without a reader there is nobody left to work for."""
        try:
            with self._lock:
                self._frames.write(message)
        except OSError:
            os._exit(EXIT_ENGINE_DIED)


def main() -> int:
    """Load, report, serve; returns the exit code."""
    logs.configure(os.environ.get(LOG_LEVEL_VARIABLE, "info"))
    # Threads that wait by spinning would take the cores of the other workers of this machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    connection = Connection(socket.socket(fileno=int(os.environ[SOCKET_VARIABLE])))
    first = connection.read()
    if first is None:
        return 0
    config = msgspec.msgpack.decode(first, type=EngineConfig)
    mailbox = Mailbox()
    reader = _Reader(connection, mailbox)
    reader.start()
    try:
        _serve(config, connection, mailbox, reader)
    except ConfigError as error:
        connection.send(Failed(str(error), wrong_input=True))
        return EXIT_WRONG_INPUT
    except Exception as error:
        log.exception("the engine died")
        connection.send(Failed(f"the engine died: {type(error).__name__}: {error}"))
        return EXIT_ENGINE_DIED
    return 0


def _serve(
    config: EngineConfig, connection: Connection, mailbox: Mailbox, reader: "_Reader"
) -> None:
    connection.send(Progress("load", 0))
    # Torch is imported here, after the wait policy is set.
    from steelyard_runtime.engine.assembly import assemble
    from steelyard_runtime.engine.loop import EngineLoop

    parts = assemble(
        config,
        on_progress=lambda stage, percent: connection.send(Progress(stage, percent)),
        wake=mailbox.wake,
    )
    loop = EngineLoop(parts.engine, mailbox, connection.send, time.monotonic_ns)
    reader.loop_state = loop.state
    # What is loaded now stays: the collector need not walk it again.
    gc.collect()
    gc.freeze()
    connection.send(parts.ready)
    try:
        loop.run()
    finally:
        parts.close()


class _Reader(threading.Thread):
    """Moves frames into the mailbox; answers `state` itself once there is one."""

    def __init__(self, connection: Connection, mailbox: Mailbox) -> None:
        super().__init__(name="engine-reader", daemon=True)
        self._connection = connection
        self._mailbox = mailbox
        self.loop_state: Any = None

    def run(self) -> None:
        decoder = msgspec.msgpack.Decoder(ToEngine)
        while (body := self._connection.read()) is not None:
            try:
                message = decoder.decode(body)
            except msgspec.DecodeError as error:
                self._refuse(body, error)
                continue
            if isinstance(message, Call) and message.method == "state" and self.loop_state:
                self._connection.send(Reply(message.call_id, result=self.loop_state()))
            else:
                self._mailbox.put(message)
        # The HTTP process is gone: end at once, also in the middle of a forward pass.
        os._exit(0)

    def _refuse(self, body: bytes, error: msgspec.DecodeError) -> None:
        """Answer a frame that is no message; it is of one request, the others' go on."""
        log.error("a message cannot be read", exc_info=error)
        with contextlib.suppress(msgspec.MsgspecError, TypeError, KeyError):
            request_id = str(msgspec.msgpack.decode(body)["request_id"])
            message = f"this request failed in the engine (admission): {error}"
            refusal = Output(request_id, [], finish_reason="error", error=message)
            self._connection.send(Outputs([refusal]))


if __name__ == "__main__":
    sys.exit(main())

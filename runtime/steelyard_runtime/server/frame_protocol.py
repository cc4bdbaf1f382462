"""A socket to another process as an asyncio protocol: frames are handed on in the read callback.

`ipc.framing.read_frame` over a `StreamReader` costs three more trips through the event loop for
each frame, which is for each token of a single stream.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from steelyard_runtime.ipc.framing import HEADER, MAX_FRAME_BYTES, encode_frame


class FrameProtocol(asyncio.Protocol):
    """Calls `on_frame` with each frame's body, and resolves `closed` at the end."""

    def __init__(self, on_frame: Callable[[bytes], None]) -> None:
        self._on_frame = on_frame
        self._rest = bytearray()  # of a frame that is not whole
        self._wanted = 0  # bytes that `_rest` needs before it is worth a look
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def send(self, message: Any) -> None:
        """Send one message; lost where the socket is closed."""
        self.send_frame(encode_frame(message))

    def send_frame(self, frame: bytes) -> None:
        """Send what `encode_frame` returned."""
        # The transport may be closing while `closed` still waits for its turn in the event loop.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Cut frames; what is left waits for more. A frame that cannot be read ends it all."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
            self._rest.clear()
        start, size = 0, len(data)
        self._wanted = HEADER.size
        try:
            while size - start >= HEADER.size:
                (length,) = HEADER.unpack_from(data, start)
                if length > MAX_FRAME_BYTES:
                    raise ValueError(f"a frame of {length} bytes")
                end = start + HEADER.size + length
                if end > size:
                    self._wanted = HEADER.size + length
                    break
                self._on_frame(data[start + HEADER.size : end])
                start = end
        except Exception as error:
            self._end(error)
            self.close()
            return
        self._rest += data[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the end."""
        self._end(exc)

    def _end(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(error)

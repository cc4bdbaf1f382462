"""Length-prefixed msgpack frames over a stream socket.

A frame is a 4-byte big-endian length and that many bytes. One codec for both directions; the
asyncio side and the thread side differ only in how they read bytes.
"""

import asyncio
import socket
import struct
from typing import Any

import msgspec

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 256 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: Any) -> bytes:
    """Return `message` as one frame."""
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next frame's body, or None when the peer closed the socket."""
    try:
        (length,) = HEADER.unpack(await reader.readexactly(HEADER.size))
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


class BlockingFrames:
    """Frames over a blocking socket; one reader thread, one writer thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=1 << 16)

    def read(self) -> bytes | None:
        """Block for the next frame's body; None when the peer closed the socket."""
        try:
            header = self._file.read(HEADER.size)
            if len(header) < HEADER.size:
                return None
            (length,) = HEADER.unpack(header)
            body = self._file.read(length)
        except OSError:
            return None
        return body if len(body) == length else None

    def write(self, message: Any) -> None:
        """Send one message.

        Raises:
            OSError: the peer is gone.
        """
        self._sock.sendall(encode_frame(message))

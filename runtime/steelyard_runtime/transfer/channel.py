"""One authenticated connection of the KV side channel, on asyncio's socket calls.

Frames for control, and raw bytes straight from and into the pool's memory for the TCP transport.
Deadlines are the callers'; a channel is closed by the task that uses it, never by another.
"""

import asyncio
import os
import socket
from typing import Any, Generic, TypeVar

import msgspec

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.transfer import codec
from steelyard_runtime.transfer.codec import FrameError, Sealer, Unsealer
from steelyard_runtime.transfer.messages import Reply, Request

T = TypeVar("T")

BACKLOG = 128

_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class Channel(Generic[T]):
    """A connection that receives messages of type T."""

    def __init__(self, sock: socket.socket, sealer: Sealer, unsealer: Unsealer[T]) -> None:
        self._socket = sock
        self._sealer = sealer
        self._unsealer = unsealer
        self._loop = asyncio.get_running_loop()

    async def send(self, message: Any) -> None:
        """Send one message."""
        await self._loop.sock_sendall(self._socket, self._sealer.seal(message))

    async def receive(self) -> T:
        """Wait for the next message.

        Raises:
            FrameError: the peer closed the connection, or sent what is no frame of ours.
        """
        return await self.finish(await self.header())

    async def header(self) -> bytes:
        """Wait for a frame to begin; `finish` reads the rest of it."""
        return await _exactly(self._loop, self._socket, codec.HEADER.size)

    async def finish(self, header: bytes) -> T:
        """Return the message of the frame that `header` begins."""
        rest = await _exactly(self._loop, self._socket, self._unsealer.rest_bytes(header))
        return self._unsealer.unseal(header, rest)

    async def receive_into(self, view: memoryview) -> None:
        """Fill `view` with raw bytes."""
        await _fill(self._loop, self._socket, view)

    async def send_view(self, view: memoryview) -> None:
        """Send raw bytes without a copy."""
        await self._loop.sock_sendall(self._socket, view)

    def close(self) -> None:
        """Close the connection; nothing lands in a view after this."""
        self._socket.close()


async def connect(address: tuple[str, int], family: int, token: str) -> Channel[Reply]:
    """Connect to a peer's side channel and exchange nonces.

    Raises:
        OSError: nobody listens there.
        FrameError: something else listens there.
    """
    loop = asyncio.get_running_loop()
    sock = _prepare(socket.socket(family, socket.SOCK_STREAM))
    try:
        await loop.sock_connect(sock, address)
        ours = os.urandom(codec.NONCE_BYTES)
        await loop.sock_sendall(sock, codec.encode_preface(ours))
        theirs = codec.decode_preface(await _exactly(loop, sock, codec.PREFACE.size))
    except BaseException:
        sock.close()
        raise
    return Channel(
        sock,
        Sealer(codec.derive_key(token, "client", ours, theirs)),
        Unsealer(codec.derive_key(token, "server", ours, theirs), _replies),
    )


async def accept(sock: socket.socket, token: str) -> Channel[Request]:
    """Exchange nonces on an accepted connection. The caller closes `sock` on failure.

    Raises:
        FrameError: the peer does not speak this protocol.
    """
    loop = asyncio.get_running_loop()
    _prepare(sock)
    theirs = codec.decode_preface(await _exactly(loop, sock, codec.PREFACE.size))
    ours = os.urandom(codec.NONCE_BYTES)
    await loop.sock_sendall(sock, codec.encode_preface(ours))
    return Channel(
        sock,
        Sealer(codec.derive_key(token, "server", theirs, ours)),
        Unsealer(codec.derive_key(token, "client", theirs, ours), _requests),
    )


def _prepare(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    await _fill(loop, sock, memoryview(data))
    return bytes(data)


async def _fill(loop: asyncio.AbstractEventLoop, sock: socket.socket, view: memoryview) -> None:
    while len(view):
        count = await loop.sock_recv_into(sock, view)
        if count == 0:
            raise FrameError("closed", "the peer closed the connection")
        view = view[count:]


def listen(host: str, port: int) -> socket.socket:
    """Return the listening socket of a worker's side channel.

    Raises:
        ConfigError: the address or the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"--kv-port {port} on --kv-host {host} cannot be used: {error}; it must be a free"
            " port on an address of this machine"
        ) from None
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener

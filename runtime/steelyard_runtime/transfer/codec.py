"""Frames of the KV side channel: a length, a msgpack body, and a MAC over both.

Each side opens with a nonce; the keys of the two directions are derived from the service's token
and both nonces, and each frame's MAC (HMAC-SHA256) covers its number in its direction. So a frame
cannot be forged, replayed, reordered or reflected, and nothing is decoded before it is verified.
What the bytes mean is decided in `messages.py`; sockets are in `channel.py`.
"""

import hashlib
import hmac
import struct
from typing import Any, Generic, Literal, TypeVar

import msgspec

from steelyard_runtime.errors import SteelyardError

MAGIC = b"SYKV"
VERSION = 1
NONCE_BYTES = 32
PREFACE = struct.Struct(f">4sB{NONCE_BYTES}s")
HEADER = struct.Struct(">I")
COUNTER = struct.Struct(">Q")
MAC_BYTES = hashlib.sha256().digest_size
MAX_BODY_BYTES = 4 * 1024 * 1024
# Before the peer has proved the token it may make us hold no more than this.
MAX_FIRST_BODY_BYTES = 512 * 1024

Direction = Literal["client", "server"]
T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


class FrameError(SteelyardError):
    """The peer does not speak our protocol, or does not know the token.

    `reason` is one of: preface, version, size, mac, decode, closed.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def encode_preface(nonce: bytes) -> bytes:
    """Return the first bytes of a connection."""
    return PREFACE.pack(MAGIC, VERSION, nonce)


def decode_preface(data: bytes) -> bytes:
    """Return the peer's nonce.

    Raises:
        FrameError: something else than this protocol speaks there.
    """
    magic, version, nonce = PREFACE.unpack(data)
    if magic != MAGIC:
        raise FrameError("preface", "the peer does not speak Steelyard's KV protocol")
    if version != VERSION:
        raise FrameError("version", f"the peer frames with version {version}; must be {VERSION}")
    assert isinstance(nonce, bytes)
    return nonce


def derive_key(token: str, direction: Direction, client_nonce: bytes, server_nonce: bytes) -> bytes:
    """Return the key of the frames that `direction` sends on this connection."""
    label = b"steelyard kv %d %s" % (VERSION, direction.encode())
    return hmac.digest(token.encode(), label + client_nonce + server_nonce, "sha256")


class Sealer:
    """Make the frames of one direction of one connection."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._counter = 0

    def seal(self, message: Any) -> bytes:
        """Return `message` as the next frame.

        Raises:
            FrameError: it is too long.
        """
        body = _encoder.encode(message)
        if len(body) > MAX_BODY_BYTES:
            raise FrameError("size", f"a frame of {len(body)} bytes; at most {MAX_BODY_BYTES}")
        header = HEADER.pack(len(body))
        mac = _mac(self._key, self._counter, header, body)
        self._counter += 1
        return b"".join((header, body, mac))


class Unsealer(Generic[T]):
    """Verify and decode the frames of one direction of one connection."""

    def __init__(self, key: bytes, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._key = key
        self._decoder = decoder
        self._counter = 0

    def rest_bytes(self, header: bytes) -> int:
        """Return how many bytes follow this header; checked before any is allocated.

        Raises:
            FrameError: more than is allowed.
        """
        (length,) = HEADER.unpack(header)
        limit = MAX_BODY_BYTES if self._counter else MAX_FIRST_BODY_BYTES
        if length > limit:
            raise FrameError("size", f"a frame of {length} bytes; at most {limit}")
        return int(length) + MAC_BYTES

    def unseal(self, header: bytes, rest: bytes) -> T:
        """Return the message of the next frame; `rest` is its body and MAC.

        Raises:
            FrameError: the MAC is wrong, or the verified body is no message of this protocol.
        """
        body, mac = rest[:-MAC_BYTES], rest[-MAC_BYTES:]
        if not hmac.compare_digest(mac, _mac(self._key, self._counter, header, body)):
            raise FrameError("mac", "a frame's MAC is wrong; both sides must use one service token")
        self._counter += 1
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise FrameError("decode", f"a frame cannot be decoded: {error}") from None


def _mac(key: bytes, counter: int, header: bytes, body: bytes) -> bytes:
    return hmac.digest(key, COUNTER.pack(counter) + header + body, "sha256")

"""A peer of the KV side channel made by hand on a blocking socket, so that it can misbehave."""

import os
import socket

import msgspec

from steelyard_runtime.transfer import codec
from steelyard_runtime.transfer.messages import PROTOCOL, Greeting, Hello, Reply

HELLO = Hello(Greeting(PROTOCOL, "raw", "f" * 64, 1, ["tcp"], 20.0))


class RawPeer:
    """One connection, past the exchange of nonces; `sent` is all that it has sent."""

    def __init__(self, port: int, token: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.sent = b""
        ours = os.urandom(codec.NONCE_BYTES)
        self.send(codec.encode_preface(ours))
        theirs = codec.decode_preface(self.exactly(codec.PREFACE.size))
        self.sealer = codec.Sealer(codec.derive_key(token, "client", ours, theirs))
        self.unsealer: codec.Unsealer[Reply] = codec.Unsealer(
            codec.derive_key(token, "server", ours, theirs), msgspec.msgpack.Decoder(Reply)
        )

    def send(self, data: bytes) -> None:
        """Send bytes and remember them."""
        self.sent += data
        self.socket.sendall(data)

    def exactly(self, size: int) -> bytes:
        """Receive so many bytes."""
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the worker closed the connection")
            data += more
        return data

    def ask(self, message: object) -> Reply:
        """Send a message and return the reply."""
        self.send(self.sealer.seal(message))
        header = self.exactly(codec.HEADER.size)
        return self.unsealer.unseal(header, self.exactly(self.unsealer.rest_bytes(header)))

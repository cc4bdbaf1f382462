"""Clients that open connections and keep them: silent, slow, half sent, or unread."""

import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from steelyard_runtime.testing.hostile.connections import POST, any_port, stream_request
from steelyard_runtime.testing.hostile.target import CLOSED, HOST, OPENED, REFUSED, Target

DRIP = b"X-Drip: " + b"a" * 10_000

Begin = Callable[[Target, random.Random], tuple[int, bytes]]


@dataclass(slots=True)
class Held:
    """An attack that opens connections and keeps them; what the server closes is opened anew."""

    begin: Begin  # the port, and what is sent at once
    most: int
    batch: int  # how many are opened at each attempt
    seconds: float  # after which a connection is given up
    drip: bytes = b""  # a byte of it is sent on each connection at each attempt
    receive_bytes: int | None = None  # the socket's buffer; None: the system's
    half_close: bool = False
    _open: list[tuple[float, socket.socket, int]] = field(default_factory=list)
    _ends: int = 0  # of the server's since the last attempt

    def __call__(self, target: Target, choose: random.Random) -> str:
        """Open a batch, and drip into those that there are."""
        self._sweep()
        outcome = CLOSED if self._ends else OPENED
        for _ in range(min(self.batch, self.most - len(self._open))):
            port, data = self.begin(target, choose)
            try:
                self._open.append((time.monotonic(), self._opened(port, data), 0))
            except OSError:
                outcome = REFUSED
        return outcome

    def _opened(self, port: int, data: bytes) -> socket.socket:
        sock = socket.socket()
        try:
            sock.settimeout(5.0)
            if self.receive_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_bytes)
            sock.connect((HOST, port))
            sock.sendall(data)
            if self.half_close:
                sock.shutdown(socket.SHUT_WR)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        return sock

    def _sweep(self) -> None:
        now, kept, self._ends = time.monotonic(), [], 0
        for since, sock, sent in self._open:
            try:
                if self.receive_bytes is None and not self.half_close and not sock.recv(4096):
                    raise ConnectionResetError
            except BlockingIOError:
                pass
            except OSError:
                sock.close()
                self._ends += 1
                continue
            if now - since > self.seconds:
                sock.close()
                continue
            kept.append((since, sock, self._drip(sock, sent)))
        self._open = kept

    def _drip(self, sock: socket.socket, sent: int) -> int:
        if not self.drip:
            return sent
        try:
            return sent + sock.send(self.drip[sent : sent + 1])
        except OSError:
            return sent  # the next sweep finds out


def _silent(target: Target, choose: random.Random) -> tuple[int, bytes]:
    return choose.choice(target.routers * 9 + target.http_ports), b""


def _body_to_come(target: Target, choose: random.Random) -> tuple[int, bytes]:
    length = choose.choice([b"Content-Length: 1000000", b"Transfer-Encoding: chunked"])
    return any_port(target, choose), POST + length + b"\r\n\r\n" + choose.choice([b"", b"1"])


def _half_a_header(target: Target, choose: random.Random) -> tuple[int, bytes]:
    started = choose.choice([b"P", b"POST /v1/comp", POST, POST + b"X-Half: ", b"GET /health HTTP"])
    return any_port(target, choose), started


def _unread(target: Target, choose: random.Random) -> tuple[int, bytes]:
    return choose.choice(target.routers), stream_request(target, choose, 300)


def _half_closed(target: Target, choose: random.Random) -> tuple[int, bytes]:
    return choose.choice(target.routers), stream_request(target, choose, 20)


def idle_connections() -> Held:
    """2,000 connections on which nothing is ever said."""
    return Held(_silent, most=2000, batch=100, seconds=1e9)


def endless_bodies() -> Held:
    """Bodies that are announced and never come."""
    return Held(_body_to_come, most=60, batch=5, seconds=60.0)


def half_headers() -> Held:
    """Requests that stop in a header."""
    return Held(_half_a_header, most=200, batch=10, seconds=120.0)


def dripping_headers() -> Held:
    """Headers of which a byte comes now and then."""
    return Held(
        lambda target, choose: (any_port(target, choose), POST),
        most=50,
        batch=5,
        seconds=120.0,
        drip=DRIP,
    )


def dripping_bodies() -> Held:
    """Bodies of which a byte comes now and then."""
    return Held(
        lambda target, choose: (
            any_port(target, choose),
            POST + b"Content-Length: 10000\r\n\r\n",
        ),
        most=50,
        batch=5,
        seconds=120.0,
        drip=b'{"prompt": "' + b"a" * 9000,
    )


def unread_streams() -> Held:
    """Streams of large events whose reader stops at once."""
    return Held(_unread, most=4, batch=1, seconds=30.0, receive_bytes=2048)


def half_closed_clients() -> Held:
    """Clients that close their sending side after the request and read nothing."""
    return Held(_half_closed, most=10, batch=1, seconds=15.0, half_close=True)

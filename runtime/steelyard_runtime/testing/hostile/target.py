"""What hostile clients know of a service, and how they speak to it: past any library's care."""

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any

import msgspec

HOST = "127.0.0.1"
CONNECT_SECONDS = 10.0

# What becomes of one attempt, beside the status codes.
LEFT = "left"  # we went away first
CLOSED = "closed"  # the server closed the connection without an answer
REFUSED = "refused"  # no connection
OPENED = "opened"  # connections that are held

LOST = (ConnectionError, http.client.RemoteDisconnected, http.client.BadStatusLine)


class WorkerPorts(msgspec.Struct, frozen=True):
    """The ports of one worker, all of `HOST`."""

    serving: int
    admin: int
    kv: int


class Target(msgspec.Struct, frozen=True):
    """A service as an attacker sees it: no key, no token."""

    routers: list[int]  # the first wants no key
    workers: list[WorkerPorts]

    @property
    def http_ports(self) -> list[int]:
        """Every port that speaks HTTP."""
        ports = [port for worker in self.workers for port in (worker.serving, worker.admin)]
        return [*self.routers, *ports]


def connect(port: int, seconds: float = CONNECT_SECONDS) -> socket.socket:
    """Return a connection whose calls have a time limit.

    Raises:
        OSError: there is none.
    """
    return socket.create_connection((HOST, port), timeout=seconds)


def post(
    port: int,
    path: str,
    body: bytes | Any,
    *,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> str:
    """POST and read the whole answer; returns its status, or how it ended.

    Args:
        port: of `HOST`.
        path: of the URL.
        body: bytes as they are, anything else as JSON; NaN and huge integers pass.
        seconds: of silence, after which this client leaves.
        headers: beside the content type.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.connect()
    except OSError:
        return REFUSED
    try:
        connection.request(
            "POST", path, content, {"Content-Type": "application/json", **(headers or {})}
        )
        answer = connection.getresponse()
        while answer.read1(65536):
            pass
        return str(answer.status)
    except TimeoutError:
        return LEFT
    except (*LOST, http.client.HTTPException):
        return CLOSED
    finally:
        connection.close()


def send_raw(port: int, data: bytes, *, seconds: float) -> str:
    """Send bytes as they are and read the answer's first line; returns its status."""
    try:
        with connect(port, seconds) as sock:
            return status_of(sock, data)
    except TimeoutError:
        return LEFT
    except ConnectionRefusedError:
        return REFUSED
    except OSError:
        return CLOSED


def status_of(sock: socket.socket, data: bytes) -> str:
    """Send, also when the answer comes before all is sent, and return the answer's status."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(data)
    return first_status(sock.recv(4096))


def first_status(data: bytes) -> str:
    """Return the status of an answer that begins with `data`."""
    words = data.split(b" ", 2)
    return words[1].decode("latin-1")[:3] if len(words) > 1 else CLOSED

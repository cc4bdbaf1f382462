"""Clients that mean harm by how they speak: endlessly, wrongly, or gone in the middle."""

import json
import random
import socket
import struct

from steelyard_runtime.testing.hostile.target import (
    CLOSED,
    REFUSED,
    Target,
    connect,
    first_status,
    send_raw,
    status_of,
)

HEADERS = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\n" + HEADERS
LONG_HEADER_BYTES = 100 * 1024 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


def any_port(target: Target, choose: random.Random) -> int:
    """Return the port of any server, mostly of a router."""
    return choose.choice([*target.routers, *target.http_ports])


def stream_request(target: Target, choose: random.Random, tokens: int) -> bytes:
    """Return a request for a stream of large events."""
    asked = {"max_tokens": tokens, "stream": True, "ignore_eos": True, "logprobs": 20}
    body = json.dumps({"prompt": f"One {choose.randrange(1000)}", **asked}).encode()
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def long_header(target: Target, choose: random.Random) -> str:
    """One header of 100 MiB, until the server has enough of it."""
    port = choose.choice(target.http_ports)
    piece = b"a" * (1 << 20)
    start = choose.choice(
        [POST + b"X-Long: ", b"GET /" + b"a" * 100, b"GET /health HTTP/1.1\r\n" + b"a" * 100]
    )
    try:
        with connect(port, 10.0) as sock:
            sock.sendall(start)
            for _ in range(LONG_HEADER_BYTES // len(piece)):
                try:
                    sock.sendall(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break
            else:
                sock.sendall(b"\r\n\r\n")
            return first_status(sock.recv(4096))
    except ConnectionRefusedError:
        return REFUSED
    except TimeoutError:
        return "unread"  # it neither reads on nor answers
    except OSError:
        return CLOSED


def many_headers(target: Target, choose: random.Random) -> str:
    """50,000 headers in one request."""
    data = POST + b"".join(b"X-%d: a\r\n" % number for number in range(50_000)) + b"\r\n"
    return send_raw(choose.choice(target.http_ports), data, seconds=10.0)


def resets(target: Target, choose: random.Random) -> str:
    """Connections reset in a header, in a body, before the first event and in a stream."""
    port = choose.choice(target.routers * 4 + [worker.serving for worker in target.workers])
    stream = stream_request(target, choose, 50)
    cut = choose.choice([10, len(stream) - 10, len(stream), len(stream), len(stream)])
    try:
        with connect(port) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.sendall(stream[:cut])
            if cut == len(stream):
                sock.settimeout(choose.uniform(0.01, 1.5))
                return first_status(sock.recv(4096))
            return "reset"
    except TimeoutError:
        return "reset"
    except ConnectionRefusedError:
        return REFUSED
    except OSError:
        return CLOSED


PATHS = (
    b"/v1/\x01models",
    b"/v1/models/%00",
    b"/v1/models/\x7f\x80\xff",
    b"/v1/models/%0d%0aX-Injected:%20a",
    b"/v1/models/../../etc/passwd",
    b"/v1/models/%2e%2e%2f%2e%2e%2fstate",
    b"/\x0b",
    b"//evil.example/v1/models",
    b"http://evil.example/v1/models",
    b"*",
    b"/" + b"%ff" * 2000,
    b"/v1/models?" + b"a" * 7000,
    b"/v1/models/%ed%a0%80",
    b"/metrics\x00",
)


def odd_paths(target: Target, choose: random.Random) -> str:
    """Control characters and other damage in paths."""
    method = choose.choice([b"GET", b"POST", b"DELETE", b"OPTIONS", b"CONNECT", b"G\x01T"])
    line = method + b" " + choose.choice(PATHS) + b" HTTP/1.1\r\n"
    data = line + HEADERS + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
    return send_raw(any_port(target, choose), data, seconds=20.0)


HOSTS = (
    b"evil.example",
    b"[::1",
    b"[",
    b"]:80",
    b"127.0.0.1:99999999",
    b"127.0.0.1:-1",
    b"a" * 5000,
    b"\xff\xfe",
    b"127.0.0.1:\x01",
    b"",
    b"user:pass@127.0.0.1",
    b"127.0.0.1, evil.example",
)


def odd_hosts(target: Target, choose: random.Random) -> str:
    """Damaged `Host` and `Origin`."""
    origin = choose.choice([b"null", b"[::1", b"http:/\xff", b"https://evil.example", b"://"])
    body = b'{"prompt": "Hi", "max_tokens": 1}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: " + choose.choice(HOSTS) + b"\r\n"
    head += b"Origin: " + origin + b"\r\nConnection: close\r\nContent-Type: application/json\r\n"
    data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return send_raw(any_port(target, choose), data, seconds=20.0)


FRAMINGS = (
    b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 100_000 + b"\r\n",
    b"Content-Length: 99999999999999999999\r\n\r\n",
    b"Content-Length: -1\r\n\r\n",
    b"Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
)


def odd_framing(target: Target, choose: random.Random) -> str:
    """Lengths that contradict each other, chunks without an end, and noise."""
    if choose.random() < 0.2:
        data = choose.randbytes(choose.randrange(1, 5000))
    else:
        data = POST + choose.choice(FRAMINGS)
    try:
        with connect(any_port(target, choose), 3.0) as sock:
            return status_of(sock, data)
    except TimeoutError:
        return "left"
    except ConnectionRefusedError:
        return REFUSED
    except OSError:
        return CLOSED

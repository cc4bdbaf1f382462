"""Attacks at the ports behind the router: administration and KV transfer."""

import os
import random
import socket
import struct

from steelyard_runtime.testing.hostile.held import Held
from steelyard_runtime.testing.hostile.target import (
    CLOSED,
    LEFT,
    REFUSED,
    Target,
    connect,
    post,
    send_raw,
)
from steelyard_runtime.transfer import codec


def admin_calls(target: Target, choose: random.Random) -> str:
    """Calls of the admin port by who has no token."""
    port = choose.choice(target.workers).admin
    path, body = choose.choice(
        [
            ("/drain", {}),
            ("/drain", {"deadlineSeconds": 0}),
            ("/role", {"role": "decode", "epoch": 2**63 - 1}),
            ("/role", {"role": "x" * 100_000}),
            ("/state", {"a": 1}),
            ("/nowhere", {}),
        ]
    )
    headers = choose.choice(
        [
            {},
            {"Authorization": "Bearer "},
            {"Authorization": "Bearer " + "x" * 7000},
            {"Authorization": "Basic Og=="},
            {"Origin": "https://evil.example", "Content-Type": "text/plain"},
        ]
    )
    return post(port, path, body, seconds=20, headers=headers)


def admin_noise(target: Target, choose: random.Random) -> str:
    """The admin port's paths with other methods, without a token."""
    line = choose.choice([b"GET /state", b"PUT /role", b"GET /drain", b"OPTIONS /state"])
    data = line + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    return send_raw(choose.choice(target.workers).admin, data, seconds=20)


def kv_garbage(target: Target, choose: random.Random) -> str:
    """Noise, wrong frames and lengths without end at the KV port."""
    preface = codec.encode_preface(os.urandom(codec.NONCE_BYTES))
    data = choose.choice(
        [
            choose.randbytes(choose.randrange(1, 5000)),
            preface + struct.pack(">I", 2**32 - 1) + b"x" * 100_000,
            preface + struct.pack(">I", 100) + choose.randbytes(132),
            preface + struct.pack(">I", 400_000) + choose.randbytes(400_032),
            b"GET / HTTP/1.1\r\n\r\n",
            b"SYKV\xff" + b"n" * 32,
            preface * 1000,
        ]
    )
    try:
        with connect(choose.choice(target.workers).kv, 3.0) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    except TimeoutError:
        return LEFT
    except ConnectionRefusedError:
        return REFUSED
    except OSError:
        pass
    return CLOSED


def _half_a_preface(target: Target, choose: random.Random) -> tuple[int, bytes]:
    preface = codec.encode_preface(os.urandom(codec.NONCE_BYTES))
    started = choose.choice([b"", preface[:10], preface, preface + b"\x00\x00\x01"])
    return choose.choice(target.workers).kv, started


def kv_silence() -> Held:
    """Connections of the KV port that stop midway."""
    return Held(_half_a_preface, most=150, batch=10, seconds=60.0)

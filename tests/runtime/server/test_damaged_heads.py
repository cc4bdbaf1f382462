"""Damaged targets, methods and headers: below 500 each, and no traceback in the log."""

import asyncio
import random
import re
from pathlib import Path

import httpx
import pytest

from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import running_worker

pytestmark = pytest.mark.anyio

WEB = b"http:" + b"//"
TARGETS = [
    *(
        b"/%00",
        b"/%0a%0d",
        b"/v1/models/%ff%fe",
        b"/v1/models/a%2F..%2Fb",
        b"/%",
        b"/%zz",
        b"//",
        b"*",
    ),
    *(
        b"/\x01\x02",
        b"/\xff\xfe",
        b"/a b",
        WEB,
        WEB + b"[",
        WEB + b"a/v1/models",
        b"?a=%00",
    ),
    *(
        b"/v1/models/" + b"a" * 3000,
        b"/v1/models/%0aX: b",
        b"/health?" + b"%" * 500,
        b"/\x7f",
        b"/;",
    ),
    *(
        b"/v1/../health",
        b"/v1/models/\xe2\x80\xae",
        b"/openapi.json#",
        b"/health/",
        b"/v1/completions",
    ),
]
HEADERS = [
    *(
        b"Host: [",
        b"Host: [::1",
        b"Host: a b",
        b"Host: \xff\xfe",
        b"Host:",
        b"Host: localhost:99999999",
    ),
    *(
        b"Host: localhost:-1",
        b"Host: localhost\r\nHost: evil",
        b"Host: \xe2\x80\xae",
        b"Host: " + b"a" * 999,
    ),
    *(
        b"Origin: [",
        b"Origin: \xff",
        b"Origin: null",
        b"Origin:",
        b"Origin: " + WEB + b"[::1",
        b"Origin: //",
    ),
    *(
        b"X-Request-Id: \xff",
        b"X-Request-Id: " + b"a" * 999,
        b"Authorization: Bearer \xff\xfe",
        b"Expect: 5",
    ),
    *(
        b"Content-Length: abc",
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999",
        b"A\0: b",
    ),
    *(
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Transfer-Encoding: chunked, gzip",
        b"Upgrade: h2c",
    ),
    *(
        b"Content-Type: \xff",
        b"Content-Type: application/json; charset=\xff",
        b"Accept: \x01",
        b": b",
    ),
    *(
        b"Access-Control-Request-Headers: \xff\xe9",
        b"Connection: Upgrade\r\nUpgrade: websocket",
        b" x: y",
    ),
]
METHODS = [
    b"GET",
    b"POST",
    b"OPTIONS",
    b"HEAD",
    b"PUT",
    b"CONNECT",
    b"TRACE",
    b"get",
    b"\xff",
    b"PRI",
]


async def raw_answer(url: httpx.URL, sent: bytes) -> bytes:
    """Return what comes until the other end closes."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(sent)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("port", ["serving", "admin"])
async def test_damaged_heads_are_no_failure(model: Path, failures: list[str], port: str) -> None:
    """Damaged targets, methods and headers are below 500 on both ports, and nothing fails."""
    draw = random.Random(f"steelyard {port}")
    seen = set()
    async with running_worker(model, allowed_origins=("https://chat.example",)) as rig:
        rig.engine.script = lambda request: Script([65])
        url = (rig.http if port == "serving" else rig.admin).base_url
        heads = [(b"GET", target, b"") for target in TARGETS]
        heads += [(b"GET", b"/version", header) for header in HEADERS]
        heads += [(method, b"/v1/completions", b"") for method in METHODS]
        heads += [
            (draw.choice(METHODS), draw.choice(TARGETS), draw.choice(HEADERS)) for _ in range(250)
        ]
        for method, target, header in heads:
            host = b"" if header.startswith(b"Host") else b"Host: localhost\r\n"
            lines = host + (header + b"\r\n" if header else b"")
            head = b"%b %b HTTP/1.1\r\nConnection: close\r\n%b\r\n{}" % (method, target, lines)
            answer = await raw_answer(url, head)
            status = re.match(rb"HTTP/1\.1 (\d+) ", answer)
            assert status is not None, head
            assert int(status[1]) < 500, (head, answer)
            seen.add(int(status[1]))
        alive = await rig.complete()

    assert failures == []
    assert {400, 403} <= seen
    assert alive.status_code == 200

"""One question to a pod by HTTP, and an answer of bounded size.

What runs in a pod was chosen by whoever wrote its resource, so its answer may be anything. It is
never followed elsewhere, never unpacked, and read no further than it may be long; the session gives
it a time. What the content means is the caller's, with `planning.untrusted`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 3.0
AT_A_TIME = 512
"""Connections of one session: most pods that hang must leave room for one that does not."""

STATE_BYTES = 64 * 1024
"""Of `/state` and `/router/signals`; a real one has 2 KiB."""
METRICS_BYTES = 1024 * 1024
"""Of a page of metrics; that of a vLLM engine has 82 kB."""

LONGEST_HEADER_BYTES, MOST_HEADERS = 8 * 1024, 64
READ_BYTES = 16 * 1024


class AnswerError(aiohttp.ClientError):
    """A pod answered with more than it may, or with packed content."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a pod said."""

    status: int
    content: bytes

    @property
    def code(self) -> str:
        """The status as a label: one of those that HTTP names, so that labels stay few."""
        try:
            return str(HTTPStatus(self.status).value)
        except ValueError:
            return "other"


def pod_session(keep_alive_seconds: float) -> aiohttp.ClientSession:
    """Return a session for short requests to pods, without cookies; the caller closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=AT_A_TIME, keepalive_timeout=keep_alive_seconds),
        timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def pod_url(ip: str | None, port: int, path: str) -> str:
    """Return the address of a path on a pod's port."""
    host = f"[{ip}]" if ip and ":" in ip else ip
    return f"http://{host}:{port}{path}"


async def ask(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    most_bytes: int,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request and return the answer; a redirect is an answer like any other.

    Args:
        session: of `pod_session`.
        method: as GET.
        url: of the pod itself.
        most_bytes: how long the answer's content may be.
        body: sent as JSON.
        headers: sent beside those of HTTP.

    Raises:
        AnswerError: the content is longer, or packed.
        aiohttp.ClientError, TimeoutError, OSError: there was no answer in time.
    """
    async with session.request(
        method,
        url,
        json=body,
        headers={"Accept-Encoding": "identity", **(headers or {})},
        allow_redirects=False,
        auto_decompress=False,
        read_bufsize=READ_BYTES,
        max_line_size=LONGEST_HEADER_BYTES,
        max_field_size=LONGEST_HEADER_BYTES,
        max_headers=MOST_HEADERS,
    ) as answer:
        packed = answer.headers.get("Content-Encoding", "identity").lower()
        if packed != "identity":
            answer.close()
            raise AnswerError(f"the answer is packed ('{packed[:32]}'); it must not be")
        content = bytearray()
        async for part in answer.content.iter_any():
            content += part
            if len(content) > most_bytes:
                answer.close()
                raise AnswerError(
                    f"the answer is longer than the {most_bytes} bytes that it may be"
                )
        return Answer(answer.status, bytes(content))

"""Serves the page on this machine: its files, its facts, and completions passed on to the service.

It listens on the loopback interface and answers only to its own name there: a page from elsewhere
that a browser has open can neither read it (DNS rebinding) nor ask something through it.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from steelyard_operator.errors import OperatorError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
COMPLETIONS = "/v1/chat/completions"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PASSED_ON = ("Authorization", "Content-Type")
ANSWERS = ("application/json", "text/event-stream")  # never a page: it would be ours to a browser
BODY_SECONDS = 30.0
MOST_BODY_BYTES = 1024**2  # aiohttp's own limit
# Browsers that ask at the same time are told the same: a look costs requests to others.
FRESH_SECONDS = 0.5
NO_LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=10.0)

Facts = Callable[[], Awaitable[dict[str, Any]]]


class Page:
    """One page; `facts` is asked when a browser asks, `endpoint` is the service's URL."""

    def __init__(
        self, session: aiohttp.ClientSession, facts: Facts, endpoint: Callable[[], str]
    ) -> None:
        self._session = session
        self._facts = facts
        self._endpoint = endpoint
        self._looking = asyncio.Lock()
        self._told: dict[str, Any] = {}
        self._told_at = -math.inf
        folder = files(__package__) / "static"
        self._files = {
            path: ((folder / name).read_text(encoding="utf-8"), kind)
            for path, (name, kind) in FILES.items()
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if not _is_ours(request):
            return _plain(403, f"this page answers to {' and '.join(NAMES)} alone")
        if request.path in self._files and request.method == "GET":
            text, kind = self._files[request.path]
            return web.Response(text=text, content_type=kind, headers=HEADERS)
        if request.path == "/facts" and request.method == "GET":
            try:
                return web.json_response(await self._fresh(), headers=HEADERS)
            except OperatorError as error:
                return _plain(503, str(error))
        if request.path == COMPLETIONS and request.method == "POST":
            return await self._complete(request)
        return _plain(404, f"there is nothing at {request.path[:128]}")

    async def _fresh(self) -> dict[str, Any]:
        async with self._looking:
            if time.monotonic() - self._told_at >= FRESH_SECONDS:
                self._told = await self._facts()
                self._told_at = time.monotonic()
            return self._told

    async def _complete(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.content_type != "application/json":
            return _plain(415, "a completion is asked for with Content-Type application/json")
        headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await request.read()
        except TimeoutError:
            return _plain(408, f"the question must come within {BODY_SECONDS:g} s")
        except web.HTTPRequestEntityTooLarge:
            return _plain(413, f"the question may not be larger than {MOST_BODY_BYTES} bytes")
        try:
            async with self._session.post(
                self._endpoint() + COMPLETIONS,
                data=body,
                headers=headers,
                timeout=NO_LIMIT,
                allow_redirects=False,  # the browser's key is for this endpoint alone
            ) as answer:
                if answer.content_type not in ANSWERS or 300 <= answer.status < 400:
                    return _plain(502, "the service answered with something else than an answer")
                reply = web.StreamResponse(status=answer.status, headers=HEADERS)
                reply.content_type = answer.content_type
                await reply.prepare(request)
                async for part in answer.content.iter_any():
                    await reply.write(part)
                await reply.write_eof()
                return reply
        except (aiohttp.ClientError, TimeoutError, OSError):
            return _plain(502, "the service does not answer")


async def serve(page: Page, port: int) -> tuple[web.ServerRunner, str]:
    """Start to listen; returns what is to be cleaned up, and the page's address.

    Raises:
        OSError: the port is taken.
    """
    server = web.Server(page.handle, access_log=None, auto_decompress=False, keepalive_timeout=75.0)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, f"http://{HOST}:{runner.addresses[0][1]}/"


def _is_ours(request: web.BaseRequest) -> bool:
    """Whether a request is for us by name, and not from a page of somebody else."""
    host = request.headers.get("Host", "")
    if len(request.headers.getall("Host", [])) != 1 or _name(host) not in NAMES:
        return False
    # A link on a page elsewhere sends no Origin; nothing here is meant to be followed from there.
    if request.headers.get("Sec-Fetch-Site", "").strip().lower() == "cross-site":
        return False
    origins = request.headers.getall("Origin", [])
    return all(origin == f"http://{host}" for origin in origins)


def _name(host: str) -> str | None:
    """Return the name in a `Host` header, without its port; None where it is damaged."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.netloc == host and "@" not in host else None
    except ValueError:
        return None


def _plain(status: int, sentence: str) -> web.Response:
    return web.Response(status=status, text=f"{sentence}\n", headers=HEADERS)

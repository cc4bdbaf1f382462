"""The outermost layer of a port: request ids, API keys or web pages, one log line a request.

Pure ASGI, so that streams pass without a copy. Nothing of a prompt or an answer is logged.
"""

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steelyard_runtime.errors import ENDS_PROCESS, RequestError
from steelyard_runtime.server.failures import as_request_error, error_response
from steelyard_runtime.server.key_file import KeyFile
from steelyard_runtime.server.leaving import CLOSE_HEADER, Leaving
from steelyard_runtime.server.request_ids import request_id
from steelyard_runtime.server.web_pages import WebPages

log = logging.getLogger("steelyard_runtime.server.request")

QUIET_PATHS = frozenset({"/health", "/ready", "/metrics", "/version", "/state"})


class Keys:
    """Bearer keys, compared in constant time; with no key everything is open."""

    def __init__(self, keys: Sequence[str], file: KeyFile | None = None) -> None:
        """Know `keys`; with `file` those that it holds now."""
        self._file = file
        self._keys: tuple[str, ...] = ()
        self._digests: list[bytes] = []
        self._take(tuple(keys))

    def __bool__(self) -> bool:
        """Whether there is any key."""
        return bool(self._keys)

    def allow(self, authorization: str | None) -> bool:
        """Whether the `Authorization` header holds one of the keys."""
        if self._file is not None:
            self._take(self._file.keys())
        if not self._digests:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode(errors="surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)

    def _take(self, keys: tuple[str, ...]) -> None:
        if keys != self._keys:
            self._keys = keys
            self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]


class Access:
    """Wraps the application; `scope["state"]["log"]` collects fields of the request's line."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        guarded: Callable[[str, str], bool],
        *,
        wanted: str = "a valid key",
        leaving: Leaving | None = None,
        pages: WebPages | None = None,
    ) -> None:
        """Guard `app`.

        Args:
            app: what is guarded.
            keys: who may ask for what is guarded.
            guarded: whether a method and a path are.
            wanted: how refusals call what is wanted.
            leaving: hears of connections that stay while the worker ends.
            pages: what web pages may send; None where a key is asked for.
        """
        self._pages = pages
        self._leaving = leaving or Leaving()
        self._app = app
        self._wanted = wanted
        self._keys = keys
        self._guarded = guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        headers = Headers(scope=scope)
        identity = request_id(headers.get("x-request-id"))
        fields: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=identity, log=fields)
        echoed = (b"x-request-id", identity.encode())
        status = 0
        leaving, kept = self._leaving, True

        async def send_with_id(message: Message) -> None:
            nonlocal status, kept
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], echoed]
                if leaving.began:
                    message["headers"].append(CLOSE_HEADER)
                    kept = False
            await send(message)

        try:
            denied = self._denial(scope["method"], scope["path"], headers)
            if denied is not None:
                challenge = {"www-authenticate": "Bearer"} if denied.status == 401 else {}
                await error_response(denied, challenge)(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except (*ENDS_PROCESS, asyncio.CancelledError):
            raise
        except BaseException as error:
            log.exception("request failed", extra={"fields": {"request_id": identity}})
            if status:
                raise
            await error_response(as_request_error(error))(scope, receive, send_with_id)
        finally:
            if leaving.began and kept:
                leaving.kept()
            quiet = scope["path"] in QUIET_PATHS and status in (200, 503)
            log.log(
                logging.DEBUG if quiet else logging.INFO,
                "request",
                extra={
                    "fields": {
                        "request_id": identity,
                        "method": scope["method"],
                        "path": scope["path"][:200],
                        "status": status,
                        "seconds": round(time.monotonic() - started, 6),
                        **fields,
                    }
                },
            )

    def _denial(self, method: str, path: str, headers: Headers) -> RequestError | None:
        """Return why the request is refused, before its body is looked at."""
        try:
            if self._pages is not None:
                self._pages.check(method, headers)
        except RequestError as error:
            return error
        if not self._guarded(method, path) or self._keys.allow(headers.get("authorization")):
            return None
        return RequestError(
            f"`Authorization` must be 'Bearer' and {self._wanted}",
            status=401,
            code="invalid_api_key",
        )

"""Connections to workers, kept for reuse: opened without limit, one request on each at a time."""

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

from steelyard_runtime.router.worker_connection import Answer, WorkerConnection

# Before the workers' own servers do it (uvicorn: after 5 s): a request that meets a closing
# connection would have to be sent again.
_IDLE_SECONDS = 4.0


class ConnectError(ConnectionError):
    """The worker could not be reached: the request was certainly not begun."""


class WorkerKey:
    """The key that workers expect, none where it is empty; it may change while the router runs."""

    def __init__(self, value: str = "") -> None:
        self.set(value)

    def set(self, value: str) -> None:
        """Use another key from the next request on."""
        self.value = value
        self.headers = {"Authorization": f"Bearer {value}"} if value else {}
        self.lines = "".join([f"{name}: {one}\r\n" for name, one in self.headers.items()])


class WorkerClient:
    """Sends POSTs to workers by their base URL."""

    def __init__(self, key: WorkerKey, connect_timeout_seconds: float) -> None:
        self._connect_timeout_seconds = connect_timeout_seconds
        self._idle: dict[str, list[WorkerConnection]] = {}
        self._hosts: dict[str, tuple[str, int, ssl.SSLContext | None]] = {}
        self.key = key

    async def post(self, url: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a request and wait for the head of its answer; the caller closes it.

        Header names and values must be free of line ends.

        Raises:
            ConnectError: no connection.
            ConnectionError: it broke before the answer.
        """
        connection = self._reuse(url) or await self._connect(url)
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
            f"User-Agent: steelyard-router\r\n{self.key.lines}{lines}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        answer = connection.send(head.encode("utf-8", "surrogateescape") + body)
        try:
            await answer.head()
        except BaseException:
            answer.close()
            raise
        return answer

    def close_old(self) -> None:
        """Close what has been idle for long: a worker that ends waits for its connections."""
        oldest_seconds = asyncio.get_running_loop().time() - _IDLE_SECONDS
        for url, connections in list(self._idle.items()):
            kept = [one for one in connections if one.idle_since_seconds > oldest_seconds]
            for connection in connections[: len(connections) - len(kept)]:  # the oldest are first
                connection.close()
            if kept:
                self._idle[url] = kept
            else:
                del self._idle[url]

    def close(self) -> None:
        """Close all idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _reuse(self, url: str) -> WorkerConnection | None:
        connections = self._idle.get(url)
        oldest_seconds = asyncio.get_running_loop().time() - _IDLE_SECONDS
        while connections:
            connection = connections.pop()
            if connection.usable and connection.idle_since_seconds > oldest_seconds:
                return connection
            connection.close()
        return None

    async def _connect(self, url: str) -> WorkerConnection:
        host, port, secure = self._host(url)

        def idle(connection: WorkerConnection) -> None:
            connection.idle_since_seconds = loop.time()
            self._idle.setdefault(url, []).append(connection)

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                _, connection = await loop.create_connection(
                    lambda: WorkerConnection(idle), host, port, ssl=secure
                )
        except (OSError, TimeoutError) as error:
            raise ConnectError(str(error)) from None
        return connection

    def _host(self, url: str) -> tuple[str, int, ssl.SSLContext | None]:
        known = self._hosts.get(url)
        if known is None:
            parts = urlsplit(url)
            secure = ssl.create_default_context() if parts.scheme == "https" else None
            port = parts.port or (443 if secure else 80)
            known = self._hosts[url] = (parts.hostname or "", port, secure)
        return known

"""List and watch of EndpointSlices with the rights of the pod that the router runs in.

An API server that is away changes nothing: the last membership stays, and the router serves on.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.router.endpoint_slices import SERVICE_LABEL, members
from steelyard_runtime.router.membership import Member

logger = logging.getLogger(__name__)

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WATCH_SECONDS = 240  # then the server ends the watch, and the next goes on where it stopped
SILENCE_SECONDS = 300.0
CONNECT_SECONDS = 5.0
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 10.0
GONE = 410


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where the API server is, and how the pod proves who it is."""

    url: str
    token_file: Path
    certificate_file: Path

    def headers(self) -> dict[str, str]:
        """Return the headers of a request; the kubelet renews the token in its file."""
        token = self.token_file.read_text(encoding="ascii").strip()
        return {"Authorization": f"Bearer {token}", "Accept": "application/json"}

    def tls(self) -> ssl.SSLContext | bool:
        """Return how the server's certificate is checked."""
        if not self.url.startswith("https:"):
            return False
        return ssl.create_default_context(cafile=str(self.certificate_file))


def in_cluster(environment: Mapping[str, str], account: Path = ACCOUNT) -> ApiServer:
    """Return the API server of the cluster that this pod runs in.

    Raises:
        ConfigError: this is no pod, or it mounts no token.
    """
    host, port = (
        environment.get("KUBERNETES_SERVICE_HOST"),
        environment.get("KUBERNETES_SERVICE_PORT"),
    )
    if not host or not port:
        raise ConfigError(
            "--endpoints-namespace needs a Kubernetes pod: KUBERNETES_SERVICE_HOST and "
            "KUBERNETES_SERVICE_PORT must be set; elsewhere use --membership-file"
        )
    for file in (account / "token", account / "ca.crt"):
        if not file.is_file():
            raise ConfigError(
                f"--endpoints-namespace needs the pod's service account: '{file}' must be a "
                "readable file (automountServiceAccountToken: true)"
            )
    bracketed = f"[{host}]" if ":" in host else host
    return ApiServer(f"https://{bracketed}:{port}", account / "token", account / "ca.crt")


class EndpointSliceWatch:
    """A MembershipSource: the pods behind the two role Services of one service."""

    def __init__(
        self, server: ApiServer, namespace: str, prefill_service: str, decode_service: str
    ) -> None:
        self._server = server
        self._url = f"{server.url}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._services = (prefill_service, decode_service)
        self._slices: dict[str, Mapping[str, Any]] = {}
        self._version = ""

    async def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        """Yield the members at each change; errors are logged and tried again."""
        backoff = FIRST_BACKOFF_SECONDS
        last: tuple[Member, ...] | None = None
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        connector = aiohttp.TCPConnector(ssl=self._server.tls())
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                try:
                    async for _ in self._changes(session):
                        backoff = FIRST_BACKOFF_SECONDS
                        now = members(self._slices.values(), *self._services)
                        if now != last:
                            last = now
                            yield now
                    continue  # The server ended the watch in its time.
                except _StaleError:
                    self._version = ""
                    continue
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError) as error:
                    logger.warning(
                        "endpoint slices cannot be read, the last membership stays",
                        extra={"fields": {"why": f"{type(error).__name__}: {error}"[:300]}},
                    )
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    async def _changes(self, session: aiohttp.ClientSession) -> AsyncIterator[None]:
        if not self._version:
            await self._list(session)
            yield
        query = {**self._query(), "watch": "true", "resourceVersion": self._version}
        query |= {"allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        async with session.get(self._url, params=query, headers=self._server.headers()) as answer:
            await _check(answer)
            rest = b""
            # Not readline: a slice of a hundred endpoints is longer than aiohttp's line limit.
            async for part in answer.content.iter_any():
                *lines, rest = (rest + part).split(b"\n")
                if lines:
                    for line in lines:
                        self._take(orjson.loads(line))
                    yield

    async def _list(self, session: aiohttp.ClientSession) -> None:
        async with session.get(
            self._url, params=self._query(), headers=self._server.headers()
        ) as answer:
            await _check(answer)
            found = orjson.loads(await answer.read())
        self._slices = {each["metadata"]["name"]: each for each in found["items"]}
        self._version = found["metadata"]["resourceVersion"]

    def _query(self) -> dict[str, str]:
        return {"labelSelector": f"{SERVICE_LABEL} in ({','.join(self._services)})"}

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, changed = event["type"], event["object"]
        if kind == "ERROR":
            if changed.get("code") == GONE:
                raise _StaleError
            raise ValueError(str(changed.get("message")))
        if kind == "DELETED":
            self._slices.pop(changed["metadata"]["name"], None)
        elif kind != "BOOKMARK":
            self._slices[changed["metadata"]["name"]] = changed
        self._version = changed["metadata"]["resourceVersion"]


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status == GONE:
        raise _StaleError
    if answer.status != 200:
        text = (await answer.read())[:300].decode(errors="replace")
        raise ValueError(f"HTTP {answer.status}: {text}")


class _StaleError(Exception):
    """The version to go on from is gone: everything is listed again."""

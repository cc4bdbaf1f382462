"""List and watch of EndpointSlices with the rights of the pod that the router runs in.

An API server that is away changes nothing: the last membership stays, and the router serves on.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.router.bounded_answers import read_bounded
from steelyard_runtime.router.endpoint_slices import SERVICE_LABEL, members
from steelyard_runtime.router.membership import Failed, Member, ignore

logger = logging.getLogger(__name__)

_KEPT = "endpoint slices cannot be read, the last membership stays"
_IN_ITS_TIME = frozenset(("ended", "stale"))  # what a watch that lasted may end with

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WATCH_SECONDS = 240  # then the server ends the watch, and the next goes on where it stopped
# A connection that died without a word is found out; bookmarks come about once a minute.
SILENCE_SECONDS = 90.0
CONNECT_SECONDS = 5.0
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 10.0
# A watch that ended sooner counts as a failure: the next one waits, and longer each time.
STEADY_SECONDS = 10.0
# etcd takes no object of more than 1.5 MiB; a slice has at most a thousand endpoints.
MOST_OBJECT_BYTES, MOST_LIST_BYTES = 4 * 1024**2, 64 * 1024**2
GONE = 410
pause = asyncio.sleep


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

    async def watch(self, failed: Failed = ignore) -> AsyncIterator[tuple[Member, ...]]:
        """Yield the members at each change; errors are logged, counted and tried again."""
        clock = asyncio.get_running_loop().time
        backoff = Backoff()
        last: tuple[Member, ...] | None = None
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        connector = aiohttp.TCPConnector(ssl=self._server.tls())
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                began_seconds = clock()
                reason = "ended"
                try:
                    async for _ in self._changes(session):
                        now = members(self._slices.values(), *self._services)
                        if now != last:
                            last = now
                            yield now
                except _StaleError:
                    self._version = ""
                    reason = "stale"
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                    reason = "unreachable"
                    if isinstance(error, ValueError):
                        self._version = ""  # A refusal may be for the version.
                    _warn(error)
                except Exception:
                    # An object of another form than ever seen: what is known serves on.
                    self._version = ""
                    reason = "malformed"
                    logger.exception(f"{_KEPT}: an object is malformed")
                if clock() - began_seconds >= STEADY_SECONDS:
                    backoff = Backoff()
                    if reason in _IN_ITS_TIME:
                        continue
                failed(reason)
                await pause(backoff.next_seconds())

    async def _changes(self, session: aiohttp.ClientSession) -> AsyncIterator[None]:
        if not self._version:
            await self._list(session)
            yield
        query = {**self._query(), "watch": "true", "resourceVersion": self._version}
        query |= {"allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        async with session.get(
            self._url, params=query, headers=self._server.headers(), allow_redirects=False
        ) as answer:
            await _check(answer)
            rest = b""
            # Not readline: a slice of a hundred endpoints is longer than aiohttp's line limit.
            async for part in answer.content.iter_any():
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > MOST_OBJECT_BYTES:
                    raise ValueError(f"an object of more than {MOST_OBJECT_BYTES} bytes")
                if lines:
                    for line in lines:
                        self._take(orjson.loads(line))
                    yield

    async def _list(self, session: aiohttp.ClientSession) -> None:
        async with session.get(
            self._url, params=self._query(), headers=self._server.headers(), allow_redirects=False
        ) as answer:
            await _check(answer)
            found = orjson.loads(await read_bounded(answer, MOST_LIST_BYTES))
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


class Backoff:
    """Pauses that double up to a limit, each shortened by chance so that routers part company."""

    def __init__(self) -> None:
        self._seconds = FIRST_BACKOFF_SECONDS

    def next_seconds(self) -> float:
        """Return the next pause."""
        seconds = self._seconds * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        self._seconds = min(2 * self._seconds, LONGEST_BACKOFF_SECONDS)
        return seconds


def _warn(error: Exception) -> None:
    why = f"{type(error).__name__}: {error}"[:300]
    logger.warning(_KEPT, extra={"fields": {"why": why}})


async def _check(answer: aiohttp.ClientResponse) -> None:
    if answer.status == GONE:
        raise _StaleError
    if answer.status != 200:
        text = (await answer.content.read(300)).decode(errors="replace")
        raise ValueError(f"HTTP {answer.status}: {text}")


class _StaleError(Exception):
    """The version to go on from is gone: everything is listed again."""

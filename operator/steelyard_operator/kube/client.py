"""The API server's client: one method per verb, objects as plain dicts, errors as a small tree.

It decides how requests look, when a throttled one is sent again and how watches are read. Which
objects are read or written is decided by its callers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from steelyard_operator.api.names import FIELD_MANAGER
from steelyard_operator.kube.answers import Raw, change, decoded, lines
from steelyard_operator.kube.credentials import Credentials
from steelyard_operator.kube.errors import NotLeading, Throttled, Unreachable, error_of, words
from steelyard_operator.kube.kinds import LEASE, Kind
from steelyard_operator.kube.metrics import API_REQUESTS
from steelyard_operator.planning.observing import controller_of

PAGE_SIZE = 500
REQUEST_SECONDS = 30.0
CONNECT_SECONDS = 10.0
# The server sends a bookmark about every minute; longer silence means that nobody is there.
WATCH_SILENCE_SECONDS = 150.0
MOST_ATTEMPTS = 4
LONGEST_RETRY_AFTER_SECONDS = 10.0
CONNECTIONS = 100

JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Client:
    """A connection to one API server; `async with` opens and closes it."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before each write but those of Leases, right before it is sent."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=self._credentials.tls()),
            proxy=self._credentials.proxy,
            headers={"User-Agent": FIELD_MANAGER},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Raw:
        """Return an object."""
        return await self._send("GET", "get", kind, kind.path(namespace, name))

    async def get_metadata(self, kind: Kind, namespace: str | None, name: str) -> Raw:
        """Return an object's metadata alone."""
        path = kind.path(namespace, name)
        return await self._send("GET", "get", kind, path, accept=METADATA)

    async def list_pages(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        selector: str = "",
        metadata_only: bool = False,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[tuple[list[Raw], str]]:
        """Yield pages of objects, each with the resource version that a watch may start from.

        Raises:
            Expired: the listing took so long that its next page is gone; begin again.
        """
        query = {"limit": str(page_size), "labelSelector": selector}
        accept = METADATA_LIST if metadata_only else ""
        while True:
            path = kind.path(namespace)
            page = await self._send("GET", "list", kind, path, query=query, accept=accept)
            yield page.get("items") or [], page["metadata"]["resourceVersion"]
            query["continue"] = page["metadata"].get("continue") or ""
            if not query["continue"]:
                return

    async def list_controlled(
        self, kind: Kind, namespace: str, selector: str, uid: str
    ) -> list[Raw]:
        """Return the objects of a label selector that the owner with this uid controls."""
        found = []
        async for page, _ in self.list_pages(kind, namespace, selector=selector):
            found += [one for one in page if (controller_of(one) or {}).get("uid") == uid]
        return found

    async def create(self, kind: Kind, body: Raw) -> Raw:
        """Create an object.

        Raises:
            Conflict: the name is taken.
            Refused: quota, policy or schema will not have it.
        """
        path = kind.path(body["metadata"]["namespace"])
        query = {"fieldManager": FIELD_MANAGER}
        return await self._send("POST", "create", kind, path, body=body, query=query)

    async def apply(self, kind: Kind, body: Raw) -> Raw:
        """Server-side apply an object: make it if it is not there, take back our fields."""
        meta = body["metadata"]
        path = kind.path(meta["namespace"], meta["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._send(
            "PATCH", "apply", kind, path, body=body, query=query, content_type=APPLY_PATCH
        )

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        subresource: str = "",
        manager: str = FIELD_MANAGER,
    ) -> Raw:
        """Change an object by a JSON patch, in the name of a field manager.

        Raises:
            Changed: a `test` in it did not hold.
        """
        path = kind.path(namespace, name, subresource)
        query = {"fieldManager": manager}
        return await self._send(
            "PATCH", "patch", kind, path, body=operations, query=query, content_type=JSON_PATCH
        )

    async def replace(self, kind: Kind, body: Raw) -> Raw:
        """Replace an object, if it still has the resource version in the body."""
        path = kind.path(body["metadata"]["namespace"], body["metadata"]["name"])
        query = {"fieldManager": FIELD_MANAGER}
        return await self._send("PUT", "update", kind, path, body=body, query=query)

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> Raw:
        """Delete an object; returns it as it is then, or a `Status` where it is gone.

        Raises:
            Conflict: it has another uid or resource version by now.
        """
        given = {"uid": uid, "resourceVersion": resource_version}
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {field: value for field, value in given.items() if value},
        }
        return await self._send("DELETE", "delete", kind, kind.path(namespace, name), body=body)

    async def watch(
        self,
        kind: Kind,
        namespace: str | None,
        resource_version: str,
        *,
        selector: str = "",
        metadata_only: bool = False,
        timeout_seconds: int,
    ) -> AsyncIterator[tuple[str, Raw]]:
        """Yield (type, object) of each change after a resource version, bookmarks included.

        It ends when the server ends it, which is normal; begin again from the last one seen.

        Raises:
            Expired: that resource version is too old; list again.
            Unreachable: the connection broke, or was silent for too long.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
            "labelSelector": selector,
        }
        headers = await self._headers(METADATA if metadata_only else "")
        path, what = kind.path(namespace), f"watch {kind.plural}"
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=WATCH_SILENCE_SECONDS
        )
        try:
            async with self._opened.get(
                self._credentials.server + path, params=query, headers=headers, timeout=timeout
            ) as answer:
                API_REQUESTS.labels("watch", kind.kind, str(answer.status)).inc()
                if answer.status != 200:
                    raise error_of(answer.status, decoded(await answer.read()), None, what)
                async for line in lines(answer.content):
                    yield change(line, what)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{what}: {words(error)}") from error

    @property
    def _opened(self) -> aiohttp.ClientSession:
        assert self._session is not None, "the client is used outside of `async with`"
        return self._session

    async def _headers(self, accept: str) -> dict[str, str]:
        return {"Accept": accept or "application/json", **await self._credentials.headers()}

    async def _send(
        self,
        method: str,
        verb: str,
        kind: Kind,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        accept: str = "",
        content_type: str = "application/json",
    ) -> Raw:
        """Send one request, again where the server was too busy to look at it."""
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                return await self._once(
                    method,
                    verb,
                    kind,
                    path,
                    data=None if body is None else orjson.dumps(body),
                    query={name: value for name, value in (query or {}).items() if value},
                    accept=accept,
                    content_type=content_type,
                )
            except Throttled as busy:
                if attempt == MOST_ATTEMPTS:
                    raise
                await asyncio.sleep(min(busy.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS))
        raise AssertionError("unreachable")

    async def _once(
        self,
        method: str,
        verb: str,
        kind: Kind,
        path: str,
        *,
        data: bytes | None,
        query: Mapping[str, str],
        accept: str,
        content_type: str,
    ) -> Raw:
        headers = await self._headers(accept)
        if data is not None:
            headers["Content-Type"] = content_type
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        what = f"{verb} {path}"
        if method != "GET" and kind is not LEASE and not self.may_write():
            raise NotLeading(f"{what}: not sent, the Lease was not renewed in time")
        try:
            async with self._opened.request(
                method,
                self._credentials.server + path,
                params=query,
                data=data,
                headers=headers,
                timeout=timeout,
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            API_REQUESTS.labels(verb, kind.kind, "none").inc()
            raise Unreachable(f"{what}: {words(error)}") from error
        API_REQUESTS.labels(verb, kind.kind, str(answer.status)).inc()
        found = decoded(content)
        if answer.status >= 300:
            raise error_of(answer.status, found, answer.headers.get("Retry-After"), what)
        if not isinstance(found, dict):
            raise Unreachable(f"{what}: the answer is no JSON object")
        return found

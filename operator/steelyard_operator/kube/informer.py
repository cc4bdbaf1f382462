"""What the API server has of one kind, kept in memory: a paged list, then a watch.

Objects become what `convert` makes of them and are forgotten, so 10,000 pods stay small. Answers to
our own writes go in at once, so that a pass never acts on what it has changed itself. What a change
means is the listener's.
"""

import asyncio
import logging
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import ApiError, Expired, NotFound, Refused, words
from steelyard_operator.kube.kinds import Kind
from steelyard_operator.kube.metrics import RELISTS

log = logging.getLogger(__name__)

Record = TypeVar("Record")

WATCH_SECONDS = (240, 300)
RESYNC_SECONDS = 600.0
OPTIONAL_KIND_SECONDS = 300.0
FIRST_BACK_OFF_SECONDS = 0.2
LONGEST_BACK_OFF_SECONDS = 15.0
# An answer to a write may come after the event of the object's end: its uid is remembered.
REMEMBERED_ENDS = 10_000


@dataclass(frozen=True, slots=True)
class Held(Generic[Record]):
    """One object: who it is, whose it is, and what `convert` made of it."""

    namespace: str
    name: str
    uid: str
    resource_version: int
    service: str
    """The value of the service label; empty where it has none."""
    controller: str | None
    """The uid of the controlling owner."""
    controller_name: str
    """Its kind and name, as in `Job/nightly`."""
    owned: bool
    """It has owner references, controlling or not."""
    record: Record


class Store(Generic[Record]):
    """The objects of one kind by namespace and service, and who hears of changes."""

    def __init__(
        self,
        convert: Callable[[Raw], Record],
        *,
        label: str,
        changed: Callable[[Held[Record]], None] = lambda _: None,
        removed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make an empty store.

        Args:
            convert: makes the record; an error says that the object is not ours.
            label: the label with the service's name.
            changed: hears of each object that is new, changed or gone, but for our own writes.
            removed: hears of the uid of each object that is gone.
        """
        self._convert = convert
        self._label = label
        self._changed = changed
        self._removed = removed
        self._by_uid: dict[str, Held[Record]] = {}
        self._by_service: dict[tuple[str, str], dict[str, Held[Record]]] = {}
        self._ended: dict[str, int] = {}  # by uid: the version that it ended with

    def of(self, namespace: str, service: str) -> tuple[Held[Record], ...]:
        """Return the objects of a service, by name."""
        found = self._by_service.get((namespace, service), {})
        return tuple(sorted(found.values(), key=lambda held: held.name))

    def every(self) -> Iterable[Held[Record]]:
        """Return all objects."""
        return self._by_uid.values()

    def put(self, raw: Raw, *, silent: bool = False) -> bool:
        """Take in an object, unless a newer one is known; returns whether it was news.

        Args:
            raw: as the API server sent it.
            silent: tell nobody: it is the answer to our own write.
        """
        meta = raw["metadata"]
        version = int(meta["resourceVersion"])
        old = self._by_uid.get(meta["uid"])
        known = self._ended.get(meta["uid"], 0) if old is None else old.resource_version
        if known >= version:
            return False
        try:
            record = self._convert(raw)
        except Exception as error:  # one object must not end the watch of all
            log.warning(
                "%s/%s: not one of ours, ignored: %s", meta["namespace"], meta["name"], words(error)
            )
            return False
        controller = controller_of(meta)
        held = Held(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            resource_version=version,
            service=(meta.get("labels") or {}).get(self._label, ""),
            controller=controller.get("uid"),
            controller_name=f"{controller.get('kind')}/{controller.get('name')}",
            owned=bool(meta.get("ownerReferences")),
            record=record,
        )
        if old is not None:
            self._unlink(old)
        self._by_uid[held.uid] = held
        self._by_service.setdefault((held.namespace, held.service), {})[held.uid] = held
        if not silent:
            self._changed(held)
        return True

    def remove(self, uid: str, version: int = sys.maxsize) -> None:
        """Take out an object that is gone, or that has lost the label; then it may come back.

        Args:
            uid: of the object.
            version: the resource version with which it went.
        """
        self._ended[uid] = version
        while len(self._ended) > REMEMBERED_ENDS:
            del self._ended[next(iter(self._ended))]
        old = self._by_uid.pop(uid, None)
        if old is not None:
            self._unlink(old)
            self._removed(uid)
            self._changed(old)

    def keep_only(self, uids: set[str], listed_at: int, namespace: str | None = None) -> None:
        """Take out what a listing did not have, unless it is younger than the listing.

        Args:
            uids: of the objects that were listed.
            listed_at: the resource version of the listing.
            namespace: the only one that was listed, or None.
        """
        for held in list(self._by_uid.values()):
            if namespace not in (None, held.namespace):
                continue
            if held.uid not in uids and held.resource_version <= listed_at:
                self.remove(held.uid, listed_at)

    def _unlink(self, held: Held[Record]) -> None:
        group = self._by_service.get((held.namespace, held.service), {})
        group.pop(held.uid, None)
        if not group:
            self._by_service.pop((held.namespace, held.service), None)


class Informer(Generic[Record]):
    """Keeps a store true to the API server."""

    def __init__(
        self,
        client: Client,
        kind: Kind,
        namespace: str | None,
        store: Store[Record],
        *,
        selector: str,
        metadata_only: bool = False,
        optional: bool = False,
    ) -> None:
        """Make an informer that has read nothing yet.

        Args:
            client: the API server.
            kind: of the objects.
            namespace: the only one that is read, or None.
            store: what is kept.
            selector: the labels of the objects that are read.
            metadata_only: read nothing but metadata.
            optional: the API server need not have the kind; then there is none of it.
        """
        self._client = client
        self._kind = kind
        self._namespace = namespace
        self._selector = selector
        self._metadata_only = metadata_only
        self._optional = optional
        self.store = store
        self.synced = asyncio.Event()
        """Set once everything there is was read."""

    async def run(self) -> None:
        """List and watch until cancelled."""
        failures = 0
        while True:
            try:
                version = await self._list()
                failures = 0
                await self._watch_from(version, until=time.monotonic() + RESYNC_SECONDS)
            except Expired:
                continue
            except ApiError as error:
                if self._optional and isinstance(error, NotFound | Refused):
                    self.synced.set()
                    await asyncio.sleep(OPTIONAL_KIND_SECONDS)
                    continue
                failures += 1
                delay = min(FIRST_BACK_OFF_SECONDS * 2**failures, LONGEST_BACK_OFF_SECONDS)
                log.warning("%s: listed again in %.1f s: %s", self._kind.plural, delay, error)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311  # no secret

    async def _list(self) -> str:
        RELISTS.labels(self._kind.kind).inc()
        uids: set[str] = set()
        version = ""
        async for items, page_version in self._client.list_pages(
            self._kind,
            self._namespace,
            selector=self._selector,
            metadata_only=self._metadata_only,
        ):
            version = version or page_version
            for raw in items:
                uids.add(raw["metadata"]["uid"])
                self.store.put(raw)
            await asyncio.sleep(0)  # a page takes a while to convert; let others in between
        self.store.keep_only(uids, int(version), self._namespace)
        self.synced.set()
        return version

    async def _watch_from(self, version: str, until: float) -> None:
        """Watch again and again from the last version seen; a broken watch costs no new list."""
        failures = 0
        while time.monotonic() < until:
            try:
                async for kind, raw in self._client.watch(
                    self._kind,
                    self._namespace,
                    version,
                    selector=self._selector,
                    metadata_only=self._metadata_only,
                    timeout_seconds=random.randint(*WATCH_SECONDS),  # noqa: S311  # no secret
                ):
                    failures = 0
                    version = raw["metadata"]["resourceVersion"]
                    self._take(kind, raw)
            except Expired:
                raise
            except ApiError as error:
                failures += 1
                if failures > 5:
                    raise
                log.info("%s: watching again: %s", self._kind.plural, error)
                await asyncio.sleep(min(FIRST_BACK_OFF_SECONDS * 2**failures, 5.0))

    def _take(self, kind: str, raw: Raw) -> None:
        if kind == "DELETED":
            self.store.remove(raw["metadata"]["uid"], int(raw["metadata"]["resourceVersion"]))
        elif kind != "BOOKMARK":
            self.store.put(raw)


def controller_of(meta: dict[str, Any]) -> dict[str, Any]:
    """Return the reference to the owner that controls an object; empty where there is none."""
    references: list[dict[str, Any]] = meta.get("ownerReferences") or []
    return next((each for each in references if each.get("controller")), {})

"""An informer follows the API server through lists, watches, gaps and missing kinds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest

from steelyard_operator.kube.client import Client
from steelyard_operator.kube.informer import Held, Informer, Store
from steelyard_operator.kube.kinds import POD

pytestmark = pytest.mark.anyio

LABEL = "steelyard.dev/service"


def raw(name: str, version: int) -> dict[str, Any]:
    """An object, as the API server sends it."""
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": name,
            "resourceVersion": str(version),
            "labels": {LABEL: "demo"},
        }
    }


def change(kind: str, found: dict[str, Any]) -> bytes:
    """One line of a watch."""
    return orjson.dumps({"type": kind, "object": found}) + b"\n"


def listing(version: int, *names: str) -> dict[str, Any]:
    """One page that is all there is."""
    items = [raw(name, version) for name in names]
    return {"metadata": {"resourceVersion": str(version)}, "items": items}


@asynccontextmanager
async def following(
    client: Client, *, until: str, optional: bool = False
) -> AsyncIterator[Informer[str]]:
    """Run an informer until it has told of an object."""
    told = asyncio.Event()

    def changed(held: Held[str]) -> None:
        if held.name == until:
            told.set()

    store = Store(lambda found: str(found["metadata"]["name"]), label=LABEL, changed=changed)
    informer = Informer(client, POD, None, store, selector=LABEL, optional=optional)
    task = asyncio.create_task(informer.run())
    try:
        if until:
            await asyncio.wait_for(told.wait(), 10)
        yield informer
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_watch_continues_a_list_and_then_itself(server: Any, client: Client) -> None:
    """A watch that ends is begun again from the last version, also from a bookmark's."""
    server.says(listing(3, "a"))
    server.streams(change("ADDED", raw("b", 4)), change("BOOKMARK", raw("", 9)))
    server.streams(change("DELETED", raw("a", 10)), change("ADDED", raw("c", 11)))

    async with following(client, until="c") as informer:
        names = [held.name for held in informer.store.of("ns", "demo")]

    assert names == ["b", "c"]
    versions = [query.get("resourceVersion") for _, _, query in server.asked[:3]]
    assert versions == [None, "3", "9"]


async def test_a_gap_is_closed_by_another_list(server: Any, client: Client) -> None:
    """After 410 everything is listed, and what is gone is taken out."""
    server.says(listing(3, "a"))
    server.streams(
        change("ERROR", {"code": 410, "reason": "Expired", "message": "too old"}),
    )
    server.says(listing(20, "b"))

    async with following(client, until="b") as informer:
        await asyncio.wait_for(_only(informer, ["b"]), 5)


async def test_a_broken_list_is_begun_again(server: Any, client: Client) -> None:
    """An API server that fails once is asked again."""
    server.says({"code": 500}, 500)
    server.says(listing(3, "a"))

    async with following(client, until="a") as informer:
        await asyncio.wait_for(informer.synced.wait(), 5)


async def test_a_kind_that_need_not_exist_is_empty(server: Any, client: Client) -> None:
    """Without the Gateway API there are no routes, and the operator begins all the same."""
    server.says({"code": 404}, 404)

    async with following(client, until="", optional=True) as informer:
        await asyncio.wait_for(informer.synced.wait(), 5)


async def _only(informer: Informer[str], names: list[str]) -> None:
    # A store tells of objects, not of what it holds altogether.
    while [held.name for held in informer.store.of("ns", "demo")] != names:  # noqa: ASYNC110
        await asyncio.sleep(0.01)

"""How requests and watches look on the wire, and which error an answer becomes."""

from typing import Any

import orjson
import pytest

from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import (
    ApiError,
    Changed,
    Conflict,
    Expired,
    NotFound,
    NotLeading,
    Refused,
    Throttled,
    Unreachable,
)
from steelyard_operator.kube.kinds import LEASE, POD

pytestmark = pytest.mark.anyio

POD_PATH = "/api/v1/namespaces/ns/pods"


def failure(code: int, message: str = "no", reason: str = "") -> dict[str, Any]:
    """The API server's `Status`."""
    return {"kind": "Status", "code": code, "message": message, "reason": reason}


async def test_a_list_is_read_in_pages(server: Any, client: Client) -> None:
    """The second page is asked for with the token that came with the first."""
    server.says({"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"n": 1}]})
    server.says({"metadata": {"resourceVersion": "7"}, "items": [{"n": 2}]})

    pages = [page async for page in client.list_pages(POD, "ns", selector="a=b", page_size=1)]

    assert pages == [([{"n": 1}], "7"), ([{"n": 2}], "7")]
    assert server.asked == [
        ("GET", POD_PATH, {"limit": "1", "labelSelector": "a=b"}),
        ("GET", POD_PATH, {"limit": "1", "labelSelector": "a=b", "continue": "more"}),
    ]


async def test_a_line_longer_than_any_buffer_is_one_change(server: Any, client: Client) -> None:
    """An object of 4 MB that arrives in pieces is read whole."""
    line = orjson.dumps({"type": "ADDED", "object": {"data": "x" * 4_000_000}}) + b"\n"
    server.streams(line[:10], line[10:2_000_000], line[2_000_000:])

    changes = [c async for c in client.watch(POD, None, "5", timeout_seconds=1)]

    assert [(kind, len(raw["data"])) for kind, raw in changes] == [("ADDED", 4_000_000)]
    assert server.asked[0][2]["resourceVersion"] == "5"


async def test_an_old_version_in_a_watch_means_list_again(server: Any, client: Client) -> None:
    """The error object in the stream becomes `Expired`."""
    change = {"type": "ERROR", "object": failure(410, reason="Expired")}
    server.streams(orjson.dumps(change) + b"\n")

    with pytest.raises(Expired):
        _ = [c async for c in client.watch(POD, None, "5", timeout_seconds=1)]


async def test_a_delete_names_who_is_meant(server: Any, client: Client) -> None:
    """Uid and resource version go along, so that a newer pod of that name survives."""
    server.says({"kind": "Pod"})

    await client.delete(POD, "ns", "demo-0", uid="u", resource_version="9")

    assert server.bodies[0]["preconditions"] == {"uid": "u", "resourceVersion": "9"}


async def test_nothing_is_written_without_the_lease(server: Any, client: Client) -> None:
    """Reads go on, and so does the Lease's own renewal; nothing else reaches the server."""
    client.may_write = lambda: False
    lease = {"metadata": {"namespace": "ns", "name": "l"}, "kind": "Lease"}
    server.says(lease)
    server.says({"kind": "Pod"})

    await client.replace(LEASE, lease)
    await client.get(POD, "ns", "demo-0")
    with pytest.raises(NotLeading, match="the Lease was not renewed in time"):
        await client.delete(POD, "ns", "demo-0")
    with pytest.raises(NotLeading):
        await client.create(POD, {"metadata": {"namespace": "ns", "name": "demo-0"}})

    assert [method for method, _, _ in server.asked] == ["PUT", "GET"]


async def test_a_throttled_request_is_sent_again(server: Any, client: Client) -> None:
    """A 429 is not the caller's problem as long as the next attempt succeeds."""
    server.says(failure(429), 429, {"Retry-After": "0"})
    server.says({"kind": "Pod"})

    assert await client.get(POD, "ns", "demo-0") == {"kind": "Pod"}


async def test_a_server_that_stays_busy_is_an_error(server: Any, client: Client) -> None:
    """The fourth 429 is told."""
    for _ in range(4):
        server.says(failure(429), 429, {"Retry-After": "0"})

    with pytest.raises(Throttled):
        await client.get(POD, "ns", "demo-0")


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (403, "exceeded quota", Refused),
        (404, "no", NotFound),
        (409, "exists", Conflict),
        (422, "invalid", Refused),
        (422, "the server rejected our request due to an error in our request", Changed),
        (500, "oops", Unreachable),
        (401, "who?", Unreachable),
    ],
)
async def test_each_answer_has_its_error(
    server: Any, client: Client, status: int, message: str, expected: type[ApiError]
) -> None:
    """What the API server says is in the error, with the request."""
    server.says(failure(status, message), status)

    with pytest.raises(expected, match=f"get {POD_PATH}/demo-0: {message.replace('?', '.')}"):
        await client.get(POD, "ns", "demo-0")


async def test_a_server_that_is_away_is_unreachable(server: Any, client: Client) -> None:
    """No answer is an error that a later attempt may not meet."""

    async def drop(request: Any) -> Any:
        request.transport.abort()

    server.answers.append(drop)

    with pytest.raises(Unreachable):
        await client.get(POD, "ns", "demo-0")

"""Pages of somebody else that a browser has open: what they send is refused without keys."""

import asyncio
from pathlib import Path

import pytest

from steelyard_runtime.router.keys import ApiKey
from steelyard_runtime.testing.fake_worker import FakeWorker
from steelyard_runtime.testing.router_service import CHAT, chat, running_service

pytestmark = pytest.mark.anyio

EVIL = "https://evil.example"
REFUSED = {
    "other-origin": ({"Origin": EVIL}, 403),
    "null-origin": ({"Origin": "null"}, 403),
    "other-port": ({"Origin": "http://127.0.0.1:1"}, 403),
    "cross-site": ({"Sec-Fetch-Site": "cross-site"}, 403),
    "text": ({"Content-Type": "text/plain"}, 415),
    "form": ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "rebound": ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
    "like-localhost": ({"Host": "localhost.evil.example"}, 403),
    "userinfo": ({"Host": "localhost@evil.example"}, 403),
    "damaged": ({"Host": "[::1"}, 403),
    "other-address": ({"Host": "192.0.2.1"}, 403),
    "empty": ({"Host": ""}, 403),
}


@pytest.mark.parametrize(("headers", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_what_a_foreign_page_sends_is_refused(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    """No worker is asked for a page of another origin, a body that is no JSON, or another name."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker) as running:
        got, document, _ = await running.post(chat(), headers=headers)

    assert (got, worker.seen) == (status, [])
    assert document["error"]["message"].endswith(".")


@pytest.mark.parametrize("path", ["/router/workers", "/v1/models", "/metrics", "/health"])
async def test_a_rebound_name_reads_nothing(tmp_path: Path, path: str) -> None:
    """The name of a page that points at this machine gets no answer from any path."""
    async with (
        running_service(tmp_path, FakeWorker()) as running,
        running.client.get(running.url + path, headers={"Host": "evil.example"}) as answer,
    ):
        assert answer.status == 403


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "127.9.9.9:80", "[::1]:80", "a.localhost"]
)
async def test_names_of_this_machine_are_served(tmp_path: Path, name: str) -> None:
    """A page of our own address is answered under every name that this machine has."""
    headers = {"Host": name, "Origin": f"http://{name}", "Sec-Fetch-Site": "same-origin"}
    async with running_service(tmp_path, FakeWorker()) as running:
        status, _, _ = await running.post(chat(), headers=headers)

    assert status == 200


async def test_flags_allow_more(tmp_path: Path) -> None:
    """`--allowed-hosts` allows a name and `--allowed-origins` an origin, from another site too."""
    headers = {"Host": "box.lan", "Origin": EVIL, "Sec-Fetch-Site": "cross-site"}
    async with running_service(
        tmp_path, FakeWorker(), allowed_hosts=("box.lan",), allowed_origins=(EVIL,)
    ) as running:
        status, _, answered = await running.post(chat(), headers=headers)

    assert (status, answered["access-control-allow-origin"]) == (200, EVIL)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "service.example"}, 200),
        ({"Host": "service.example", "Origin": "https://service.example"}, 200),
        ({"Host": "service.example", "Origin": EVIL}, 403),
        ({"Host": "service.example", "Content-Type": "text/plain"}, 415),
    ],
)
async def test_off_loopback_any_name_is_served(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    """Behind a Service or an Ingress every name is ours; origin and content type still count."""
    async with running_service(tmp_path, FakeWorker(), host="0.0.0.0") as running:
        got, _, _ = await running.post(chat(), headers=headers)

    assert got == status


async def test_with_keys_a_page_needs_one(tmp_path: Path) -> None:
    """With keys nothing of this is asked: a page cannot send a key that it does not have."""
    headers = {"Host": "a.example", "Origin": EVIL, "Authorization": "Bearer secret"}
    async with running_service(
        tmp_path, FakeWorker(), api_keys=(ApiKey("one", "secret"),)
    ) as running:
        status, _, _ = await running.post(chat(), headers={**headers, "Content-Type": "text/plain"})

    assert status == 200


@pytest.mark.parametrize("origin", ["https://a\xff", "\x7f", "a\tb"])
async def test_damaged_origins_are_not_repeated(tmp_path: Path, origin: str) -> None:
    """An origin that is no text is not echoed where all are allowed, and fails nothing."""
    async with running_service(tmp_path, FakeWorker(), allowed_origins=("*",)) as running:
        status = await _status(int(running.url.rpartition(":")[2]), origin)

    assert status in (204, 400)


async def _status(port: int, origin: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"OPTIONS {CHAT} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n"
        f"Access-Control-Request-Headers: {origin}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode("latin-1"))
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return int(line.split()[1])

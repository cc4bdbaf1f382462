"""Membership from EndpointSlices: roles, terminating pods, a server that comes and goes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from steelyard_runtime.cli import main
from steelyard_runtime.router import kubernetes_watch
from steelyard_runtime.router.endpoint_slices import members
from steelyard_runtime.router.kubernetes_watch import ApiServer, EndpointSliceWatch
from steelyard_runtime.router.membership import Member


def endpoint(name: str, address: str, **conditions: bool) -> dict[str, Any]:
    """One pod as a slice lists it."""
    return {"addresses": [address], "conditions": conditions, "targetRef": {"name": name}}


def slice_of(service: str, *endpoints: dict[str, Any], version: int = 1) -> dict[str, Any]:
    """One slice of a Service."""
    return {
        "metadata": {
            "name": f"{service}-abc",
            "labels": {"kubernetes.io/service-name": service},
            "resourceVersion": str(version),
        },
        "ports": [{"name": "kv", "port": 5600}, {"name": "http", "port": 8000}],
        "endpoints": list(endpoints),
    }


def test_the_service_that_lists_a_pod_says_its_role() -> None:
    """A pod in both Services serves both roles."""
    found = members(
        [
            slice_of(
                "s-prefill", endpoint("s-0", "10.0.0.1", ready=True), endpoint("s-2", "fd::3")
            ),
            slice_of("s-decode", endpoint("s-1", "10.0.0.2", ready=True), endpoint("s-2", "fd::3")),
            slice_of("other", endpoint("o-0", "10.0.0.9", ready=True)),
        ],
        "s-prefill",
        "s-decode",
    )

    assert found == (
        Member("s-0", "http://10.0.0.1:8000", "prefill"),
        Member("s-1", "http://10.0.0.2:8000", "decode"),
        Member("s-2", "http://[fd::3]:8000", "both"),
    )


def test_a_terminating_or_unready_pod_gets_no_new_work() -> None:
    """Its phase is known without asking it."""
    found = members(
        [
            slice_of(
                "s-decode",
                endpoint("s-0", "10.0.0.1", ready=False, serving=True, terminating=True),
                endpoint("s-1", "10.0.0.2", ready=False, serving=False, terminating=False),
            )
        ],
        "s-prefill",
        "s-decode",
    )

    assert [(one.id, one.phase) for one in found] == [("s-0", "draining"), ("s-1", "loading")]


class FakeApiServer:
    """Lists and watches as the API server does; events are pushed by the test."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.lists = 0
        self.refuse = False
        self.last_words: bytes | None = None  # all that watches say before they end
        self.tokens: list[str] = []
        self.watchers: list[asyncio.Queue[bytes | None]] = []
        self.watching = asyncio.Event()
        self.refused = asyncio.Queue[None]()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a list or hold a watch."""
        self.tokens.append(request.headers["Authorization"])
        if self.refuse:
            self.refused.put_nowait(None)
            return web.Response(status=500)
        assert request.query["labelSelector"] == (
            "kubernetes.io/service-name in (s-prefill,s-decode)"
        )
        if "watch" not in request.query:
            self.lists += 1
            body = {"metadata": {"resourceVersion": "7"}, "items": self.listed}
            return web.Response(body=orjson.dumps(body))
        answer = web.StreamResponse()
        await answer.prepare(request)
        if self.last_words is not None:
            await answer.write(self.last_words)
            return answer
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.watchers.append(queue)
        self.watching.set()
        while (line := await queue.get()) is not None:
            await answer.write(line)
        return answer

    async def push(self, kind: str, changed: dict[str, Any]) -> None:
        """Send one event to the newest watch."""
        await self.watching.wait()
        line = orjson.dumps({"type": kind, "object": changed}) + b"\n"
        self.watchers[-1].put_nowait(line[:20])  # Lines come in pieces.
        self.watchers[-1].put_nowait(line[20:])

    def end_watch(self) -> None:
        """Close the newest watch."""
        self.watching.clear()
        self.watchers[-1].put_nowait(None)


@pytest.fixture
async def api() -> AsyncIterator[tuple[FakeApiServer, str]]:
    """A fake API server on a free port."""
    fake = FakeApiServer()
    app = web.Application()
    app.router.add_get("/apis/discovery.k8s.io/v1/namespaces/ns/endpointslices", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield fake, f"http://127.0.0.1:{runner.addresses[0][1]}"
    for watcher in fake.watchers:
        watcher.put_nowait(None)
    await runner.cleanup()


@pytest.mark.anyio
async def test_changes_are_followed_through_ends_and_errors(
    api: tuple[FakeApiServer, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch that ends goes on; a stale one lists anew; a failing server changes nothing."""
    monkeypatch.setattr(kubernetes_watch, "FIRST_BACKOFF_SECONDS", 0.01)
    fake, url = api
    token = tmp_path / "token"
    token.write_text("first\n")
    first = slice_of("s-decode", endpoint("s-1", "10.0.0.1", ready=True))
    fake.listed = [first]
    watch = EndpointSliceWatch(ApiServer(url, token, tmp_path), "ns", "s-prefill", "s-decode")
    seen = watch.watch()

    assert [one.id for one in await anext(seen)] == ["s-1"]
    following = asyncio.ensure_future(anext(seen))
    await fake.push(
        "MODIFIED", slice_of("s-decode", endpoint("s-2", "10.0.0.2", ready=True), version=8)
    )
    assert [one.id for one in await following] == ["s-2"]

    token.write_text("second\n")  # As the kubelet does.
    following = asyncio.ensure_future(anext(seen))
    fake.end_watch()
    await fake.push("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
    await fake.push("DELETED", slice_of("s-decode", version=10))
    assert await following == ()
    assert (fake.lists, fake.tokens[-1]) == (1, "Bearer second")

    following = asyncio.ensure_future(anext(seen))
    fake.watching.clear()
    fake.watchers[-1].put_nowait(
        orjson.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old"}}) + b"\n"
    )
    assert [one.id for one in await following] == ["s-1"]
    assert fake.lists == 2

    fake.refuse = True
    following = asyncio.ensure_future(anext(seen))
    for _ in range(3):
        await fake.refused.get()
    assert not following.done()
    fake.refuse = False
    await fake.push("DELETED", slice_of("s-decode", version=11))
    assert await following == ()
    await seen.aclose()  # type: ignore[attr-defined]  # an asynchronous generator


class Failures:
    """Reasons as they are counted, and a way to wait for them."""

    def __init__(self) -> None:
        self.queue = asyncio.Queue[str]()

    def __call__(self, reason: str) -> None:
        """Take one."""
        self.queue.put_nowait(reason)

    async def next(self, count: int) -> list[str]:
        """Wait for so many."""
        return [await self.queue.get() for _ in range(count)]


@pytest.fixture
async def following(
    api: tuple[FakeApiServer, str], tmp_path: Path
) -> AsyncIterator[tuple[FakeApiServer, AsyncIterator[tuple[Member, ...]], Failures]]:
    """A watch that has listed one pod."""
    fake, url = api
    (tmp_path / "token").write_text("t")
    fake.listed = [slice_of("s-decode", endpoint("s-1", "10.0.0.1", ready=True))]
    server = ApiServer(url, tmp_path / "token", tmp_path)
    failures = Failures()
    seen = EndpointSliceWatch(server, "ns", "s-prefill", "s-decode").watch(failures)
    assert [one.id for one in await anext(seen)] == ["s-1"]
    yield fake, seen, failures
    await seen.aclose()  # type: ignore[attr-defined]  # an asynchronous generator


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("last_words", "reason"),
    [(b"", "ended"), (b'{"type":"ERROR","object":{"code":410}}\n', "stale")],
    ids=["ends-at-once", "410"],
)
async def test_watches_that_do_not_last_are_spaced(
    following: Any, monkeypatch: pytest.MonkeyPatch, last_words: bytes, reason: str
) -> None:
    """A server whose watches end at once is asked less and less often, not in a loop."""
    fake, seen, failures = following
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(kubernetes_watch, "pause", pause)
    fake.last_words = last_words
    waiting = asyncio.ensure_future(anext(seen))
    assert await failures.next(8) == [reason] * 8
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    assert all(0.5 * 2**n / 2 <= seconds <= 0.5 * 2**n for n, seconds in enumerate(pauses[:5]))
    assert 5 <= pauses[7] <= 10


@pytest.mark.anyio
async def test_a_malformed_object_changes_nothing(
    following: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no API server should send is counted; the membership stays, and is listed anew."""
    monkeypatch.setattr(kubernetes_watch, "FIRST_BACKOFF_SECONDS", 0.01)
    fake, seen, failures = following
    waiting = asyncio.ensure_future(anext(seen))
    await fake.push("MODIFIED", {**slice_of("s-decode", version=8), "endpoints": [7]})
    assert await failures.next(1) == ["malformed"]
    fake.listed = [slice_of("s-decode", endpoint("s-2", "10.0.0.2", ready=True))]

    assert [one.id for one in await waiting] == ["s-2"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--endpoints-namespace", "ns"], "--prefill-service and --decode-service together"),
        ([], "either --membership-file must be given"),
        (
            ["--endpoints-namespace", "ns", "--prefill-service", "a", "--decode-service", "b"],
            "needs a Kubernetes pod",
        ),
    ],
)
def test_wrong_flags_get_a_sentence(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly one way to find workers, and only where it exists."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    assert main(["router", "--served-model-name", "m", *flags]) == 2
    assert said in capsys.readouterr().err

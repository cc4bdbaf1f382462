"""A router with fake workers in one event loop, and a client that reads streams."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from steelyard_runtime.router.app import running_router
from steelyard_runtime.router.membership import MembershipFile
from steelyard_runtime.router.service import RouterService
from steelyard_runtime.router.settings import RouterSettings
from steelyard_runtime.testing.fake_worker import FakeWorker

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
JSON = {"Content-Type": "application/json"}
LONG_PROMPT = "In the beginning there was a prompt that pays to prefill elsewhere. " * 12


@dataclass(frozen=True, slots=True)
class Streamed:
    """One stream as its client saw it."""

    status: int
    headers: dict[str, str]  # names in lower case
    raw: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        """The chunks, `[DONE]` left out."""
        lines = [line[6:] for line in self.raw.split(b"\n\n") if line.startswith(b"data: ")]
        return [json.loads(line) for line in lines if line != b"[DONE]"]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The chunks without what names a worker or a moment."""
        return [
            {name: value for name, value in event.items() if name not in ("id", "created")}
            for event in self.events
        ]

    @property
    def ended(self) -> bool:
        """Whether `[DONE]` came, once and last."""
        return self.raw.count(b"[DONE]") == 1 and self.raw.endswith(b"data: [DONE]\n\n")

    def text(self, index: int = 0) -> str:
        """The text of one choice."""
        return "".join(
            choice.get("text") or choice.get("delta", {}).get("content") or ""
            for event in self.events
            for choice in event["choices"]
            if choice["index"] == index
        )

    def token_ids(self, index: int = 0) -> list[int]:
        """The token ids of one choice."""
        return [
            token
            for event in self.events
            for choice in event["choices"]
            if choice["index"] == index
            for token in choice.get("token_ids", [])
        ]


class RunningService:
    """The router under test, its workers and a client."""

    def __init__(
        self,
        service: RouterService,
        url: str,
        workers: Sequence[FakeWorker],
        membership: Path,
        client: aiohttp.ClientSession,
    ) -> None:
        self.service = service
        self.url = url
        self.workers = list(workers)
        self.client = client
        self._membership = membership

    def set_members(self, *workers: FakeWorker, **fields: Any) -> None:
        """Replace the membership file."""
        write_membership(self._membership, workers, **fields)

    async def stream(
        self, body: dict[str, Any], path: str = CHAT, headers: dict[str, str] | None = None
    ) -> Streamed:
        """Send a streaming request and read it to its end."""
        sent = {"stream": True, "seed": 7, **body}
        async with self.client.post(self.url + path, json=sent, headers=headers) as answer:
            return Streamed(answer.status, _lower(answer.headers), await answer.read())

    async def post(
        self, body: Any, path: str = CHAT, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Send a request and return status, document and headers."""
        data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        async with self.client.post(self.url + path, data=data, headers=headers) as answer:
            return answer.status, json.loads(await answer.read()), _lower(answer.headers)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Get a JSON document."""
        async with self.client.get(self.url + path) as answer:
            return answer.status, json.loads(await answer.read())

    async def send_raw(self, body: bytes) -> asyncio.WriteTransport:
        """Send a chat request on a connection of its own that the test may break."""
        host, port = self.url.removeprefix("http://").split(":")
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, host, int(port))
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        transport.write(head.encode() + body)
        return transport

    async def metric(self, name: str, **labels: str) -> float:
        """Return a sample's value, 0 where it does not exist."""
        async with self.client.get(self.url + "/metrics") as answer:
            page = await answer.text()
        inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        sample = f"steelyard_router:{name}{{{inside}}}" if labels else f"steelyard_router:{name}"
        for line in page.splitlines():
            if line.rpartition(" ")[0] == sample:
                return float(line.rpartition(" ")[2])
        return 0.0


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def chat(text: str = LONG_PROMPT, **fields: Any) -> dict[str, Any]:
    """Return a chat request."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 12, **fields}


def write_membership(path: Path, workers: Sequence[FakeWorker], **fields: Any) -> None:
    """Write a membership file as local mode does: by atomic rename."""
    members = [
        {
            "id": f"w{worker.port}",
            "url": worker.url,
            "role": worker.role,
            "phase": worker.phase,
            "fingerprint": worker.fingerprint,
            **fields,
        }
        for worker in workers
    ]
    known = [
        {name: value for name, value in member.items() if value is not None} for member in members
    ]
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"version": 1, "workers": known}))
    fresh.rename(path)


@contextlib.asynccontextmanager
async def running_service(
    folder: Path, *workers: FakeWorker, member_fields: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[RunningService]:
    """Run a router over these workers; `settings` are fields of `RouterSettings`."""
    membership = folder / "membership.json"
    for worker in workers:
        await worker.start()
    write_membership(membership, workers, **(member_fields or {}))
    chosen = RouterSettings(
        **{
            "served_model_name": "fake",
            "membership_file": membership,
            "port": 0,
            "membership_poll_seconds": 0.01,
            "last_resort_seconds": 0.05,
            **settings,
        }
    )
    source = MembershipFile(membership, chosen.membership_poll_seconds)
    async with (
        running_router(chosen, source) as (service, port),
        aiohttp.ClientSession(headers=JSON) as client,
    ):
        running = RunningService(service, f"http://127.0.0.1:{port}", workers, membership, client)
        try:
            await eventually(lambda: len(service.pool.workers) == len(workers))
            yield running
        finally:
            for worker in running.workers:
                worker.resume.set()
                await worker.kill()


async def eventually(condition: Callable[[], bool], deadline_seconds: float = 5.0) -> None:
    """Wait until the condition holds.

    Raises:
        TimeoutError: it did not within the deadline.
    """
    async with asyncio.timeout(deadline_seconds):
        while not condition():  # noqa: ASYNC110  # Conditions of many kinds, in tests only.
            await asyncio.sleep(0.005)

"""A worker's HTTP process inside a test's event loop, in front of a fake engine.

Real sockets on loopback, the real application; only the engine and the process around are not.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from steelyard_runtime.config import EngineConfig
from steelyard_runtime.server.model_text import ModelText
from steelyard_runtime.server.settings import ServerSettings
from steelyard_runtime.server.template_renderer import TemplateRenderer
from steelyard_runtime.server.worker_parts import WorkerParts, put_together
from steelyard_runtime.testing.fake_engine import FakeEngine
from steelyard_runtime.tokenization.loading import load_tokenizer

MODEL = "fake"
WAIT_SECONDS = 10.0


@dataclass(slots=True)
class Rig:
    """A running worker and clients of its two ports."""

    parts: WorkerParts
    engine: FakeEngine
    http: httpx.AsyncClient
    admin: httpx.AsyncClient

    async def complete(self, **fields: Any) -> httpx.Response:
        """POST a completion."""
        body = {"model": MODEL, "prompt": "Hi", "max_tokens": 5, **fields}
        return await self.http.post("/v1/completions", json=body)

    async def chat(self, **fields: Any) -> httpx.Response:
        """POST a chat completion."""
        messages = [{"role": "user", "content": "Hi"}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 5, **fields}
        return await self.http.post("/v1/chat/completions", json=body)

    async def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a condition.

        Raises:
            TimeoutError: it stayed false.
        """
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():  # conditions are of any kind
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {WAIT_SECONDS} s: {what}")
            await asyncio.sleep(0.002)


def events(response: httpx.Response) -> list[Any]:
    """Return the events of an SSE body, `[DONE]` as text; comments are left out."""
    found: list[Any] = []
    for block in response.text.split("\n\n"):
        if block.startswith("data: "):
            data = block.removeprefix("data: ")
            found.append(data if data == "[DONE]" else orjson.loads(data))
    return found


@contextlib.asynccontextmanager
async def running_worker(model: Path, *, start: bool = True, **settings: Any) -> AsyncIterator[Rig]:
    """Run a worker over `model`'s tokenizer; with `start=False` it stays in phase `loading`."""
    theirs, ours = socket.socketpair()
    given = ServerSettings(
        model=str(model), served_model_name=MODEL, port=0, admin_port=0, **settings
    )
    parts = put_together(given, ours, "both")
    engine = FakeEngine(theirs)
    config = EngineConfig(model=str(model), engine_id="engine-1")
    tasks = [asyncio.create_task(engine.run()), asyncio.create_task(parts.client.run(config))]
    for server in parts.servers:
        await server.open()
    try:
        if start:
            await open_gate(parts, model)
        serving, admin = (f"http://127.0.0.1:{server.port}" for server in parts.servers)
        async with (
            httpx.AsyncClient(base_url=serving, timeout=WAIT_SECONDS) as http,
            httpx.AsyncClient(base_url=admin, timeout=WAIT_SECONDS) as control,
        ):
            yield Rig(parts, engine, http, control)
    finally:
        engine.die()
        if parts.worker.text is not None:
            parts.worker.text.templates.close()
        await asyncio.gather(*(server.close() for server in parts.servers))
        await asyncio.gather(*tasks)


async def open_gate(parts: WorkerParts, model: Path) -> None:
    """Do what the worker does once its engine is ready."""
    await parts.client.started.wait()
    ready = parts.client.ready
    assert ready is not None
    tokenizer = load_tokenizer(model)
    parts.worker.text = ModelText(
        tokenizer,
        TemplateRenderer(tokenizer.chat_templates, tokenizer.special_tokens),
        ready.max_model_len,
        ready.vocab_size,
        parts.worker.threads,
    )
    parts.state.open(ready)

"""A client that goes away frees its blocks at once."""

import asyncio

import pytest

from steelyard_runtime.testing.byte_tokenizer import byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig

pytestmark = pytest.mark.anyio


async def test_leaving_a_stream_aborts_all_its_sequences(rig: Rig) -> None:
    """Closing the connection midway aborts every choice."""
    rig.engine.script = lambda _: Script(byte_ids("abc"), hold_after=2)
    body = {"model": "fake", "prompt": "x", "stream": True, "n": 2}

    async with rig.http.stream("POST", "/v1/completions", json=body) as response:
        await anext(response.aiter_lines())

    await rig.until(lambda: len(rig.engine.aborted) == 2, "both choices are aborted")
    await rig.until(lambda: rig.parts.state.open_requests == 0, "the request is over")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_leaving_before_the_first_token_aborts(rig: Rig, stream: bool) -> None:
    """A client that gives up while its prompt waits frees its place, streaming or not."""
    rig.engine.script = lambda _: Script(byte_ids("abc"), hold_after=0)

    request = asyncio.create_task(rig.complete(stream=stream))
    await rig.until(lambda: rig.engine.added, "the sequence has started")
    request.cancel()

    await rig.until(lambda: rig.engine.aborted, "the sequence is aborted")
    await rig.until(lambda: rig.parts.state.open_requests == 0, "the request is over")


async def test_a_finished_request_aborts_nothing(rig: Rig) -> None:
    """An answer that ended by itself sends no abort."""
    await rig.complete()
    await rig.chat(stream=True)
    await rig.admin.get("/state")

    assert rig.engine.aborted == []

"""The engine process ends: requests in flight and later ones are told so."""

import asyncio

import pytest

from steelyard_runtime.testing.byte_tokenizer import byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig, events

pytestmark = pytest.mark.anyio


async def test_requests_in_flight_answer_503(own_rig: Rig) -> None:
    """A request whose engine dies before the first token gets 503."""
    own_rig.engine.script = lambda _: Script(byte_ids("abc"), die_after=0)

    whole, stream = await asyncio.gather(own_rig.complete(), own_rig.chat(stream=True))

    for response in (whole, stream):
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_dead"


async def test_streams_get_an_error_event(own_rig: Rig) -> None:
    """A stream that has begun ends with an error event."""
    own_rig.engine.script = lambda _: Script(byte_ids("abc"), die_after=2)

    found = events(await own_rig.complete(stream=True))

    assert [event["choices"][0]["text"] for event in found[:-1]] == ["a", "b"]
    assert found[-1]["error"]["code"] == "engine_dead"


async def test_afterwards_health_and_requests_are_503(own_rig: Rig) -> None:
    """With a dead engine the worker is unhealthy; metrics and state still answer."""
    own_rig.engine.die()
    await own_rig.parts.client.dead.wait()

    assert (await own_rig.http.get("/health")).status_code == 503
    assert (await own_rig.http.get("/ready")).status_code == 503
    assert (await own_rig.complete()).status_code == 503
    assert 'phase="failed"' in (await own_rig.http.get("/metrics")).text
    assert (await own_rig.admin.get("/state")).json()["phase"] == "failed"

"""A stream whose worker fails goes on elsewhere, and its client cannot tell."""

from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import (
    CHAT,
    COMPLETIONS,
    Streamed,
    chat,
    running_service,
)

pytestmark = pytest.mark.anyio

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, chat()),
    "chat-usage": (CHAT, chat(stream_options={"include_usage": True})),
    "chat-token-ids": (CHAT, chat(return_token_ids=True)),
    "chat-two-choices": (CHAT, chat(n=2, stream_options={"include_usage": True})),
    "completion": (COMPLETIONS, {"prompt": "once " * 80, "max_tokens": 9}),
    "completion-token-ids": (COMPLETIONS, {"prompt": [5] * 99, "return_token_ids": True}),
}
FAULTS = {
    "refused": Fault(die_before_answer=True),
    "before-first-token": Fault(die_after_tokens=0),
    "after-first-token": Fault(die_after_tokens=1),
    "midway": Fault(die_after_tokens=5),
    "ends-early": Fault(stop_after_tokens=4),
    "error-event": Fault(error_after_tokens=3),
    "unavailable": Fault(status=503),
    "server-error": Fault(status=500),
    "busy": Fault(status=429, retry_after="3"),
}


async def _undisturbed(folder: Path, path: str, body: dict[str, Any]) -> Streamed:
    async with running_service(folder, FakeWorker("decode")) as running:
        return await running.stream(body, path)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize(("path", "body"), BODIES.values(), ids=BODIES.keys())
async def test_stream_equals_an_undisturbed_one(
    tmp_path: Path, path: str, body: dict[str, Any], fault: Fault
) -> None:
    """Whatever a decode worker's failure is, the client gets the stream of a quiet run."""
    expected = await _undisturbed(tmp_path, path, body)
    first, second = FakeWorker("decode"), FakeWorker("decode")
    first.faults.append(fault)
    async with running_service(tmp_path, first, second) as running:
        seen = await running.stream(body, path)

    assert not first.faults
    assert expected.chunks == seen.chunks
    assert seen.ended
    assert len({event["id"] for event in seen.events}) == 1

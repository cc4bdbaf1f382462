"""Streams that another worker began: `steelyard.resume_token_ids`."""

import json
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.byte_tokenizer import byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig, events

pytestmark = pytest.mark.anyio

CALL = 'Well. <tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def deltas(found: list[Any]) -> list[dict[str, Any]]:
    """Return the deltas of a chat stream."""
    return [event["choices"][0]["delta"] for event in found if event != "[DONE]"]


@pytest.mark.parametrize("cut", range(0, 14, 3))
async def test_text_goes_on_without_repetition(rig: Rig, cut: int) -> None:
    """Wherever the first stream broke off, both parts are the whole text."""
    text = "aé€ Hello STOP"
    ids = byte_ids(text)
    rig.engine.script = lambda request: Script(ids[len(request.resume_token_ids) :])
    body: dict[str, Any] = {"stream": True, "return_token_ids": True, "stop": ["STOP"]}
    whole = events(await rig.complete(max_tokens=99, **body))[:-1]

    resumed = events(
        await rig.complete(
            max_tokens=99, **body, steelyard={"resume_token_ids": ids[:cut]} if cut else None
        )
    )[:-1]

    sent = "".join(e["choices"][0]["text"] for e in whole[:cut])
    rest = "".join(e["choices"][0]["text"] for e in resumed)
    assert sent + rest == "aé€ Hello "
    assert resumed[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("cut", [1, 6, 9, 18, 20, 30, 48, 52, 60])
async def test_tool_calls_go_on_where_they_broke_off(rig: Rig, cut: int) -> None:
    """The parser's state is rebuilt: heads are sent once, arguments are whole."""
    ids = byte_ids(CALL)
    rig.engine.script = lambda request: Script(ids[len(request.resume_token_ids) :], "stop")
    body: dict[str, Any] = {
        "stream": True,
        "return_token_ids": True,
        "tools": TOOLS,
        "max_tokens": 500,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
    }
    headers = {"x-request-id": "the-same"}
    request = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], **body}
    url = "/v1/chat/completions"
    first = events(await rig.http.post(url, json=request, headers=headers))[:-1]
    resume = {**request, "steelyard": {"resume_token_ids": ids[:cut]}}
    second = events(await rig.http.post(url, json=resume, headers=headers))[:-1]

    # The first event is the role; one event a token follows.
    parts = deltas(first[: cut + 1] + second)
    calls = [call for part in parts for call in part.get("tool_calls", [])]
    assert "".join(part.get("content", "") for part in parts) == "Well."
    assert [call["id"] for call in calls if "id" in call] == [calls[0]["id"]]
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == {"a": "é"}
    assert not any("role" in delta for delta in deltas(second))
    assert second[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_usage_counts_resumed_tokens(rig: Rig) -> None:
    """Tokens that the client has already are a part of the answer's length."""
    answer = (
        await rig.complete(max_tokens=5, steelyard={"resume_token_ids": byte_ids("He")})
    ).json()

    assert answer["choices"][0]["text"] == "llo"
    assert answer["usage"]["completion_tokens"] == 5
    assert rig.engine.added[0].resume_token_ids == byte_ids("He")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_text_that_was_complete_needs_no_engine(rig: Rig, stream: bool) -> None:
    """Where the resumed tokens end with the stop string, only the end is left to say."""
    response = await rig.complete(
        max_tokens=50,
        stop=["STOP"],
        stream=stream,
        steelyard={"resume_token_ids": byte_ids("aSTOP")},
    )

    choice = events(response)[0]["choices"][0] if stream else response.json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    assert rig.engine.added == []


async def test_several_choices_cannot_be_resumed(rig: Rig) -> None:
    """Resuming goes with one choice."""
    response = await rig.complete(n=2, steelyard={"resume_token_ids": [72]})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "steelyard.resume_token_ids"


async def test_unknown_token_ids_are_refused(rig: Rig, model: Path) -> None:
    """Ids outside of the vocabulary are a 400."""
    response = await rig.complete(steelyard={"resume_token_ids": [99999]})

    assert response.status_code == 400

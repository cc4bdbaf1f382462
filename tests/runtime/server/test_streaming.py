"""Server-sent events: their order, usage, keep-alive, errors midway."""

import asyncio

import pytest

from steelyard_runtime.testing.byte_tokenizer import IM_END, byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig, events, running_worker

pytestmark = pytest.mark.anyio


async def test_chat_stream_has_openais_order(rig: Rig) -> None:
    """Role, deltas, finish, usage, `[DONE]`."""
    rig.engine.script = lambda _: Script(byte_ids("Hey"))

    response = await rig.chat(stream=True, stream_options={"include_usage": True})

    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response)
    deltas = [(e["choices"][0]["delta"], e["choices"][0]["finish_reason"]) for e in found[:-2]]
    assert deltas == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "H"}, None),
        ({"content": "e"}, None),
        ({"content": "y"}, None),
        ({}, "length"),
    ]
    assert all(event["usage"] is None for event in found[:-2])
    assert found[-2]["choices"] == []
    assert found[-2]["usage"]["completion_tokens"] == 3
    assert found[-1] == "[DONE]"


async def test_stream_has_no_usage_unless_asked(rig: Rig) -> None:
    """Without `include_usage` no chunk has a `usage` member."""
    found = events(await rig.chat(stream=True))

    assert all("usage" not in event for event in found[:-1])
    assert all(event["object"] == "chat.completion.chunk" for event in found[:-1])
    assert len({event["id"] for event in found[:-1]}) == 1


async def test_completion_stream_joins_to_the_whole_text(rig: Rig) -> None:
    """Streamed pieces are the unstreamed text, the finish reason on the last."""
    whole = (await rig.complete(max_tokens=20)).json()["choices"][0]["text"]

    found = events(await rig.complete(max_tokens=20, stream=True))

    assert "".join(event["choices"][0]["text"] for event in found[:-1]) == whole
    assert [event["choices"][0]["finish_reason"] for event in found[-2:-1]] == ["length"]
    assert found[-1] == "[DONE]"


async def test_streamed_choices_are_told_apart(rig: Rig) -> None:
    """With `n` every choice has its own role, text and end."""
    found = events(await rig.chat(stream=True, n=2, max_tokens=3))[:-1]

    for index in (0, 1):
        mine = [e["choices"][0] for e in found if e["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["delta"].get("content", "") for c in mine) == "Hel"
        assert mine[-1]["finish_reason"] == "length"


async def test_characters_are_never_split(rig: Rig) -> None:
    """A character of several tokens comes as one piece."""
    rig.engine.script = lambda _: Script([*byte_ids("é€𝄞"), IM_END], "stop")

    found = events(await rig.complete(stream=True))

    texts = [event["choices"][0]["text"] for event in found[:-1]]
    assert [text for text in texts if text] == ["é", "€", "𝄞"]


async def test_echo_streams_the_prompt_first(rig: Rig) -> None:
    """A streamed echo begins with the prompt's text."""
    found = events(await rig.complete(prompt="Hi ", stream=True, echo=True))

    assert found[0]["choices"][0]["text"] == "Hi H"


async def test_streamed_stop_string_is_never_shown(rig: Rig) -> None:
    """Text that may begin a stop string is held back until it is certain."""
    rig.engine.script = lambda _: Script(byte_ids("abcSTSTOPd"))

    found = events(await rig.chat(stream=True, stop=["STOP"], max_tokens=50))[:-1]

    text = "".join(e["choices"][0]["delta"].get("content", "") for e in found)
    assert text == "abcST"
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    assert found[-1]["choices"][0]["stop_reason"] == "STOP"


async def test_silence_is_filled_with_comments(model: object) -> None:
    """A stream whose first token takes long gets comment lines, then the answer."""
    async with running_worker(model, sse_keepalive_seconds=0.02) as rig:  # type: ignore[arg-type]  # the fixture's path
        rig.engine.script = lambda _: Script(byte_ids("ab"), hold_after=0)
        body = {"model": "fake", "prompt": "x", "stream": True}
        async with rig.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            first = await anext(lines)
            rig.engine.gate.set()
            rest = [line async for line in lines]

    assert first.startswith(":")
    assert response.status_code == 200
    assert rest[-2:] == ["data: [DONE]", ""]


async def test_refusal_before_the_first_token_has_its_status(rig: Rig) -> None:
    """A full queue answers 429 with `Retry-After`, also for a stream."""
    rig.engine.script = lambda _: Script([], "error", "the queue is full", 429)

    response = await rig.chat(stream=True)

    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["message"] == "the queue is full"
    assert response.json()["error"]["type"] == "rate_limit_error"


async def test_error_midway_is_an_event_and_ends_the_stream(rig: Rig) -> None:
    """After the first token an error is OpenAI's object as an event, with no `[DONE]`."""
    rig.engine.script = lambda _: Script(byte_ids("abc"), "error", "it broke", 500)

    found = events(await rig.complete(stream=True))

    assert found[0]["choices"][0]["text"] == "a"
    assert found[-1]["error"]["message"] == "it broke"
    assert found[-1]["error"]["type"] == "server_error"


async def test_one_failed_choice_aborts_the_others(rig: Rig) -> None:
    """An error of one choice ends the request and frees the other choice's sequence."""

    def script(request: object) -> Script:
        if len(rig.engine.added) == 1:
            return Script(byte_ids("abc"), hold_after=1)
        return Script([], "error", "it broke", 500)

    rig.engine.script = script

    response = await rig.complete(n=2)

    assert response.status_code == 500
    await rig.until(lambda: rig.engine.aborted, "the other choice is aborted")
    assert rig.engine.aborted == [rig.engine.added[0].request_id]


async def test_timing_and_token_ids_are_in_each_chunk(rig: Rig) -> None:
    """What the router asks for: ids beside each text, the prompt's on the first chunk, times."""
    response = await rig.chat(
        stream=True, max_tokens=3, return_token_ids=True, steelyard={"timing": True}
    )

    found = events(response)[:-1]
    assert found[0]["prompt_token_ids"] == rig.engine.added[0].prompt_token_ids
    assert [e["choices"][0].get("token_ids") for e in found[1:]] == [[72], [101], [108]]
    assert all(e["steelyard"]["logits_at_ns"] > 0 for e in found[1:])
    assert found[-1]["choices"][0]["finish_reason"] == "length"


async def test_many_streams_run_side_by_side(rig: Rig) -> None:
    """Each of many concurrent streams gets its own text."""
    rig.engine.script = lambda request: Script(request.prompt_token_ids * 3)

    names = [f"request-{i}" for i in range(24)]
    answers = await asyncio.gather(*(rig.complete(prompt=n, stream=True) for n in names))

    texts = ["".join(e["choices"][0]["text"] for e in events(a)[:-1]) for a in answers]
    assert texts == [name * 3 for name in names]

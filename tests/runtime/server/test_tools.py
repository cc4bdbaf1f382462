"""Tools: what the model sees, what forces it, and its calls as deltas."""

import json
from typing import Any

import pytest

from steelyard_runtime.core.params import MAX_GRAMMAR_BYTES
from steelyard_runtime.testing.byte_tokenizer import byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig, events

pytestmark = pytest.mark.anyio

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "time"}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "weather"}}


def play(rig: Rig, text: str) -> None:
    """Let the model write `text` and end."""
    rig.engine.script = lambda _: Script([*byte_ids(text), 257], "stop")


def joined_calls(found: list[Any]) -> dict[int, dict[str, str]]:
    """Join streamed tool-call deltas as a client does."""
    calls: dict[int, dict[str, str]] = {}
    for event in found:
        for part in event["choices"][0]["delta"].get("tool_calls", []):
            call = calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
            call["id"] += part.get("id", "")
            call["name"] += part["function"].get("name", "")
            call["arguments"] += part["function"]["arguments"]
    return calls


async def test_a_call_is_an_object_of_its_own(rig: Rig) -> None:
    """A call in the model's text becomes `tool_calls`, and the finish reason says so."""
    play(rig, CALL)

    choice = (await rig.chat(tools=TOOLS, max_tokens=500)).json()["choices"][0]

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


async def test_streamed_calls_join_to_the_same(rig: Rig) -> None:
    """Streamed: text first, then each call's head once and its arguments in parts."""
    play(rig, "Let me look. " + CALL + CALL.replace("Oslo", "Rome"))

    found = events(await rig.chat(tools=TOOLS, max_tokens=500, stream=True))[:-1]

    calls = joined_calls(found)
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in found)
    assert text == "Let me look."
    assert [call["name"] for call in calls.values()] == ["weather", "weather"]
    cities = [json.loads(call["arguments"])["city"] for call in calls.values()]
    assert cities == ["Oslo", "Rome"]
    assert len({call["id"] for call in calls.values()}) == 2
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_plain_text_with_tools_stays_content(rig: Rig) -> None:
    """A model that calls nothing answers as without tools."""
    play(rig, "No need.")

    choice = (await rig.chat(tools=TOOLS, max_tokens=500)).json()["choices"][0]

    assert (choice["message"]["content"], choice["finish_reason"]) == ("No need.", "stop")


async def test_named_tool_forces_its_arguments(rig: Rig) -> None:
    """A named choice puts the function's schema on the output, which is all arguments."""
    play(rig, '{"city": "Oslo"}')

    answer = await rig.chat(tools=TOOLS, tool_choice=NAMED, max_tokens=500)

    grammar = rig.engine.added[0].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text)["required"] == ["city"]
    choice = answer.json()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Oslo"}'
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_required_forces_a_list_of_calls(rig: Rig, stream: bool) -> None:
    """`required` puts a list of calls on the output, which becomes `tool_calls`."""
    play(rig, '[{"name": "time", "arguments": {}}]')

    response = await rig.chat(
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=500,
        stream=stream,
    )

    grammar = rig.engine.added[0].params.grammar
    assert grammar is not None
    assert json.loads(grammar.text)["maxItems"] == 1
    if stream:
        found = events(response)[:-1]
        (call,) = joined_calls(found).values()
        reason = found[-1]["choices"][0]["finish_reason"]
    else:
        choice = response.json()["choices"][0]
        call = choice["message"]["tool_calls"][0]["function"]
        reason = choice["finish_reason"]
    assert (call["name"], call["arguments"], reason) == ("time", "{}", "tool_calls")


async def test_a_refused_schema_of_a_tool_names_the_tools(rig: Rig) -> None:
    """The engine's refusal arrives with the field that it is about."""
    rig.engine.script = lambda _: Script([], "error", "no", 400, "tools")
    response = await rig.chat(tools=TOOLS, tool_choice="required")

    assert rig.engine.added[0].params.grammar.field == "tools"
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tools")


async def test_a_long_schema_never_gets_to_the_engine(rig: Rig) -> None:
    """It is a 400 that says how long it may be, for all choices at once."""
    schema = {"name": "a", "schema": {"const": "x" * MAX_GRAMMAR_BYTES}}
    response = await rig.chat(response_format={"type": "json_schema", "json_schema": schema}, n=4)

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "response_format")
    assert f"at most {MAX_GRAMMAR_BYTES}" in error["message"]
    assert not rig.engine.added


async def test_none_hides_the_tools(rig: Rig) -> None:
    """With `none` the prompt is the one without tools, and text that looks like a call stays."""
    await rig.chat()
    play(rig, CALL)

    choice = (await rig.chat(tools=TOOLS, tool_choice="none", max_tokens=500)).json()["choices"][0]

    first, second = rig.engine.added
    assert first.prompt_token_ids == second.prompt_token_ids
    assert choice["message"]["content"] == CALL


async def test_tools_are_in_the_prompt(rig: Rig) -> None:
    """The model is told of the tools."""
    await rig.chat(tools=TOOLS)

    prompt = bytes(i for i in rig.engine.added[0].prompt_token_ids if i < 256).decode()
    assert '"weather"' in prompt


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "nothing"}},
            },
            "tool_choice",
        ),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        (
            {
                "tools": TOOLS,
                "tool_choice": "required",
                "response_format": {"type": "json_object"},
            },
            "response_format",
        ),
    ],
    ids=["no tools", "unknown name", "unknown word", "with a format"],
)
async def test_impossible_choices_are_refused(rig: Rig, fields: dict[str, Any], param: str) -> None:
    """A choice that cannot be made is a 400 that names the field."""
    response = await rig.chat(**fields)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param

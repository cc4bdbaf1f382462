"""Tool calls through the official client, colocated and split."""

import json
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.model

MODEL = "smollm2"


def tool(name: str, parameters: dict[str, Any]) -> Any:
    """Return a function tool whose arguments are all required."""
    schema = {
        "type": "object",
        "properties": parameters,
        "required": list(parameters),
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": f"{name}.", "parameters": schema},
    }


TOOLS: Any = [
    tool("get_tide", {"harbour": {"enum": ["north", "south"]}}),
    tool("count_ships", {"docked": {"type": "boolean"}, "pier": {"enum": [1, 2]}}),
]
ALLOWED: dict[str, dict[str, list[Any]]] = {
    "get_tide": {"harbour": ["north", "south"]},
    "count_ships": {"docked": [True, False], "pier": [1, 2]},
}


def request(story: str, **fields: Any) -> dict[str, Any]:
    """Return the fields of a chat that may call a tool."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{story} How high is the tide?"}],
        "tools": TOOLS,
        "max_tokens": 64,
        "temperature": 0,
        **fields,
    }


def check_call(function: Any) -> None:
    """Check a call against the schemas, by hand."""
    arguments = json.loads(function.arguments)
    allowed = ALLOWED[function.name]

    assert arguments.keys() == allowed.keys()
    assert all(arguments[name] in allowed[name] for name in allowed)


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_model_that_calls_nothing_answers_in_text(
    client: openai.OpenAI, story: str, choice: Any
) -> None:
    """Without a forced call the answer is text: nothing is made up and nothing is lost."""
    fields = request(story, max_tokens=6, tool_choice=choice)

    (answer,) = client.chat.completions.create(**fields).choices

    assert answer.message.content
    assert not answer.message.tool_calls
    assert answer.finish_reason == "length"


def test_a_required_call_is_a_valid_one(client: openai.OpenAI, story: str) -> None:
    """`required` gives calls of known functions with arguments of their schemas."""
    answer = client.chat.completions.create(
        **request(story, tool_choice="required", parallel_tool_calls=False)
    ).choices[0]

    assert answer.finish_reason == "tool_calls"
    assert not answer.message.content
    (call,) = answer.message.tool_calls or ()
    assert call.type == "function"
    assert call.id.startswith("call_")
    check_call(call.function)


NAMED: Any = {"type": "function", "function": {"name": "count_ships"}}


def test_a_named_call_is_of_that_function(client: openai.OpenAI, story: str) -> None:
    """A named choice calls this function and no other."""
    answer = client.chat.completions.create(**request(story, tool_choice=NAMED)).choices[0]

    (call,) = answer.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "count_ships"
    check_call(call.function)


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_streamed_deltas_add_up_to_the_call(client: openai.OpenAI, story: str, choice: Any) -> None:
    """The client's own accumulator makes the same call of the deltas as comes without a stream."""
    fields = request(story, tool_choice=choice, parallel_tool_calls=False)
    with client.chat.completions.stream(**fields) as stream:
        events = [event.type for event in stream]
        streamed = stream.get_final_completion().choices[0]
    whole = client.chat.completions.create(**fields).choices[0]

    (one,), (other,) = streamed.message.tool_calls or (), whole.message.tool_calls or ()
    assert "tool_calls.function.arguments.delta" in events
    assert other.type == "function"
    assert one.function.name == other.function.name
    assert one.function.arguments == other.function.arguments
    assert streamed.finish_reason == whole.finish_reason
    check_call(one.function)


def test_a_tools_answer_is_taken_back(client: openai.OpenAI, story: str) -> None:
    """The conversation goes on after a call and its result, as agents send it."""
    first = client.chat.completions.create(**request(story, tool_choice=NAMED)).choices[0].message
    call = (first.tool_calls or [])[0]
    fields = request(story, max_tokens=4)
    fields["messages"] += [
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "7 ships"},
    ]

    answer = client.chat.completions.create(**fields)

    assert answer.choices[0].message.content

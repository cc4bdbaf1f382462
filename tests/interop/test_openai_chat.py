"""Chats through the official client, colocated and split."""

import json
from typing import Any

import openai
import pydantic
import pytest

pytestmark = pytest.mark.model

MODEL = "smollm2"


def ask(text: str) -> Any:
    """Return the messages of a short conversation."""
    return [
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": text},
    ]


def test_a_chat_answers(client: openai.OpenAI, story: str) -> None:
    """A chat has one assistant message, a finish reason and token counts."""
    answer = client.chat.completions.create(
        model=MODEL, messages=ask(story), max_tokens=6, temperature=0
    )

    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6
    assert answer.usage.prompt_tokens_details is not None


def test_a_streamed_chat_is_the_same_text(client: openai.OpenAI, story: str) -> None:
    """The deltas add up to the message, with usage in a last chunk where it was asked for."""
    fields: dict[str, Any] = {"model": MODEL, "messages": ask(story), "max_completion_tokens": 8}
    chunks = list(
        client.chat.completions.create(
            **fields, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    whole = client.chat.completions.create(**fields, temperature=0)

    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(c.delta.content or "" for c in choices) == whole.choices[0].message.content
    assert [c.finish_reason for c in choices if c.finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_without_options_has_no_usage(client: openai.OpenAI) -> None:
    """Usage comes only to those who ask."""
    stream = client.chat.completions.create(
        model=MODEL, messages=ask("Hi"), max_tokens=2, stream=True
    )

    assert [chunk.usage for chunk in stream if chunk.usage is not None] == []


def test_log_probabilities_come_with_every_token(client: openai.OpenAI, story: str) -> None:
    """Each token has its bytes, its log probability and so many alternatives, best first."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": ask(story),
        "max_tokens": 5,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
    }
    answer = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True))

    message, logprobs = answer.choices[0].message, answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 5
    assert bytes(b for t in logprobs.content for b in t.bytes or ()).decode() == message.content
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0
    streamed = [
        token
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs is not None
        for token in choice.logprobs.content or ()
    ]
    assert [token.token for token in streamed] == [token.token for token in logprobs.content]


def test_seeded_choices_differ_from_each_other_and_repeat(
    client: openai.OpenAI, story: str
) -> None:
    """`n` choices are drawn separately, and the same seed draws the same ones again."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "messages": ask(story),
        "max_tokens": 8,
        "temperature": 1.2,
        "seed": 11,
        "n": 2,
    }
    first, second = (client.chat.completions.create(**fields) for _ in range(2))

    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1]
    assert texts[0] != texts[1]
    assert texts == [choice.message.content for choice in second.choices]


def test_a_stop_string_ends_the_answer_and_is_not_in_it(client: openai.OpenAI, story: str) -> None:
    """The text ends before the stop string, with `stop` as the reason, streamed or not."""
    fields: dict[str, Any] = {"model": MODEL, "messages": ask(story), "temperature": 0}
    free = client.chat.completions.create(**fields, max_tokens=8).choices[0].message.content
    assert free is not None
    stop = free[len(free) // 2 : len(free) // 2 + 3]

    answer = client.chat.completions.create(**fields, max_tokens=8, stop=[stop, "never this"])
    chunks = client.chat.completions.create(**fields, max_tokens=8, stop=stop, stream=True)

    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (free[: free.index(stop)], "stop")
    streamed = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(c.delta.content or "" for c in streamed) == choice.message.content
    assert streamed[-1].finish_reason == "stop"


class Ship(pydantic.BaseModel):
    """What the structured answer must be."""

    model_config = pydantic.ConfigDict(extra="forbid")

    heavy: bool
    masts: pydantic.conint(ge=1, le=4)  # type: ignore[valid-type]  # a constraint, not a class


def test_a_parsed_answer_is_the_pydantic_model(client: openai.OpenAI, story: str) -> None:
    """`chat.completions.parse` sends the model's schema and gets an instance back."""
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=ask(story),
        response_format=Ship,
        max_tokens=40,
        temperature=0.8,
        seed=3,
    )

    choice = answer.choices[0]
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Ship)


def test_a_streamed_answer_parses_to_the_same_model(client: openai.OpenAI, story: str) -> None:
    """`chat.completions.stream` parses while it reads and assembles a final completion."""
    with client.chat.completions.stream(
        model=MODEL,
        messages=ask(story),
        response_format=Ship,
        max_tokens=40,
        temperature=0.8,
        seed=3,
    ) as stream:
        events = {event.type for event in stream}
        final = stream.get_final_completion()

    assert {"chunk", "content.delta", "content.done"} <= events
    assert isinstance(final.choices[0].message.parsed, Ship)


def test_a_json_object_is_one(client: openai.OpenAI, story: str) -> None:
    """With `json_object` the text so far is the beginning of an object, or one as a whole."""
    answer = client.chat.completions.create(
        model=MODEL,
        messages=ask(f"{story} Answer with a JSON object."),
        response_format={"type": "json_object"},
        max_tokens=12,
        temperature=0,
    )

    choice = answer.choices[0]
    assert (choice.message.content or "").lstrip().startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)


def test_content_parts_and_the_developer_role_are_taken(client: openai.OpenAI) -> None:
    """Text parts become lines, and `developer` is what `system` was."""
    parts: Any = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello."}]
    fields: dict[str, Any] = {"model": MODEL, "max_tokens": 4, "temperature": 0}
    new = client.chat.completions.create(
        **fields,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": parts},
        ],
    )
    old = client.chat.completions.create(
        **fields,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Say\nhello."},
        ],
    )

    assert new.choices[0].message.content == old.choices[0].message.content
    assert new.usage is not None
    assert old.usage is not None
    assert new.usage.prompt_tokens == old.usage.prompt_tokens


def test_headers_carry_the_request_id(client: openai.OpenAI) -> None:
    """`with_raw_response` shows the id that was sent, which the client's object has too."""
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ask("Hi"), max_tokens=1, extra_headers={"X-Request-Id": "trip-7"}
    )

    assert raw.headers["x-request-id"] == "trip-7"
    assert raw.parse()._request_id == "trip-7"


def test_an_abandoned_stream_frees_its_blocks(client: openai.OpenAI, story: str) -> None:
    """Closing a stream early cancels the request: the fixture finds every block released."""
    with client.chat.completions.create(
        model=MODEL,
        messages=ask(story),
        max_tokens=2000,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as stream:
        first = next(iter(stream))

    assert first.choices[0].delta.role == "assistant"

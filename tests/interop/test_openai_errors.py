"""Errors as the official client's own exceptions, colocated and split."""

from typing import Any

import openai
import pytest

pytestmark = pytest.mark.model

MODEL = "smollm2"
HELLO: Any = [{"role": "user", "content": "Hello"}]


def test_a_wrong_value_is_a_bad_request(client: openai.OpenAI) -> None:
    """The exception names the field."""
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=9)

    assert caught.value.status_code == 400
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_a_wrong_value_of_a_stream_is_a_bad_request(client: openai.OpenAI) -> None:
    """A stream that cannot start is an error status, not an event."""
    with pytest.raises(openai.BadRequestError, match="top_p"):
        client.completions.create(model=MODEL, prompt="x", top_p=7, stream=True)


def test_a_prompt_longer_than_the_model_is_a_bad_request(client: openai.OpenAI) -> None:
    """The message tells the model's length and the prompt's."""
    with pytest.raises(openai.BadRequestError, match="8192") as caught:
        client.completions.create(model=MODEL, prompt=[5] * 9000, max_tokens=1)

    assert caught.value.code == "context_length_exceeded"


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    """The message names the one that is served."""
    with pytest.raises(openai.NotFoundError, match=MODEL) as caught:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)

    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_an_authentication_error(client: openai.OpenAI) -> None:
    """Nothing is answered to a stranger, not even the models' names."""
    stranger = client.with_options(api_key="sk-wrong")

    with pytest.raises(openai.AuthenticationError) as caught:
        stranger.chat.completions.create(model=MODEL, messages=HELLO)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()

    assert caught.value.code == "invalid_api_key"


def test_the_responses_api_is_clearly_not_there(client: openai.OpenAI) -> None:
    """`/v1/responses` is not found, and the message tells what is served instead."""
    with pytest.raises(openai.NotFoundError, match="/v1/chat/completions"):
        client.responses.create(model=MODEL, input="Hello")


@pytest.mark.parametrize("service", ["tcp"], indirect=True)
def test_a_limited_key_gets_a_rate_limit_error(client: openai.OpenAI) -> None:
    """Beyond its requests a minute a key is told when to come again."""
    limited = client.with_options(api_key="sk-strict")
    limited.completions.create(model=MODEL, prompt="Salt", max_tokens=1)

    with pytest.raises(openai.RateLimitError) as caught:
        limited.completions.create(model=MODEL, prompt="Salt", max_tokens=1)

    assert int(caught.value.response.headers["retry-after"]) >= 1

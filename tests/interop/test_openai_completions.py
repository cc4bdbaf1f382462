"""Text completions through the official client, colocated and split."""

from typing import Any

import openai
import pytest

pytestmark = pytest.mark.model

MODEL = "smollm2"


class Tokenized(openai.BaseModel):
    """What `/tokenize` answers, as far as it is used here."""

    tokens: list[int]


def test_a_completion_answers(client: openai.OpenAI, story: str) -> None:
    """A completion has one choice, a finish reason and counts; `echo` puts the prompt first."""
    fields: dict[str, Any] = {"model": MODEL, "prompt": story, "max_tokens": 6, "temperature": 0}
    answer = client.completions.create(**fields)
    echoed = client.completions.create(**fields, echo=True)

    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6
    assert echoed.choices[0].text == story + choice.text
    assert echoed.usage is not None
    assert echoed.usage.completion_tokens == 6


def test_a_streamed_completion_is_the_same_text(client: openai.OpenAI, story: str) -> None:
    """The chunks add up to the text, with usage in a last chunk where it was asked for."""
    fields: dict[str, Any] = {"model": MODEL, "prompt": story, "max_tokens": 8, "temperature": 0}
    chunks = list(
        client.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    )
    whole = client.completions.create(**fields)

    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.text for choice in choices) == whole.choices[0].text
    assert [c.finish_reason for c in choices if c.finish_reason] == ["length"]
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_log_probabilities_have_openais_old_shape(client: openai.OpenAI, story: str) -> None:
    """Tokens, values, alternatives and offsets stand in lists of one length."""
    fields: dict[str, Any] = {"model": MODEL, "max_tokens": 3, "temperature": 0, "logprobs": 2}
    plain = client.completions.create(**fields, prompt=story).choices[0]
    echoed = client.completions.create(**fields, prompt="One ship", echo=True).choices[0]

    assert plain.logprobs is not None
    assert "".join(plain.logprobs.tokens or ()) == plain.text
    assert len(plain.logprobs.token_logprobs or ()) == 3
    assert all(len(top) == 2 for top in plain.logprobs.top_logprobs or ())
    assert plain.logprobs.text_offset is not None
    assert plain.logprobs.text_offset[0] == 0
    assert echoed.logprobs is not None
    assert "".join(echoed.logprobs.tokens or ()) == echoed.text
    assert (echoed.logprobs.token_logprobs or ())[0] is None
    assert (echoed.logprobs.token_logprobs or ())[1] <= 0


def test_token_ids_and_several_prompts_are_taken(client: openai.OpenAI, story: str) -> None:
    """Token ids give what their text gives, and each prompt of an array has its own choice."""
    fields: dict[str, Any] = {"model": MODEL, "max_tokens": 4, "temperature": 0}
    # Not one of OpenAI's endpoints: the client posts to any address below its server.
    ids = client.post("/../tokenize", body={"prompt": story}, cast_to=Tokenized).tokens

    text = client.completions.create(**fields, prompt=story).choices[0].text
    of_ids = client.completions.create(**fields, prompt=ids).choices[0].text
    of_texts = client.completions.create(**fields, prompt=["Salt", story])
    of_arrays = client.completions.create(**fields, prompt=[ids[:3], ids])

    assert of_ids == text
    assert [choice.index for choice in of_texts.choices] == [0, 1]
    assert of_texts.choices[1].text == text
    assert of_arrays.choices[1].text == text


def test_seeded_choices_repeat_and_stop_where_they_are_told(
    client: openai.OpenAI, story: str
) -> None:
    """The same seed draws the same choices; a stop string cuts each of them."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "prompt": story,
        "max_tokens": 8,
        "temperature": 1.1,
        "seed": 5,
        "n": 2,
    }
    free = client.completions.create(**fields)
    stopped = client.completions.create(**fields, stop=" ")

    texts = [choice.text for choice in free.choices]
    assert texts[0] != texts[1]
    assert [choice.text for choice in stopped.choices] == [text.split(" ")[0] for text in texts]


def test_headers_carry_the_request_id(client: openai.OpenAI) -> None:
    """A request without an id gets one, which `with_raw_response` shows."""
    raw = client.completions.with_raw_response.create(model=MODEL, prompt="Salt", max_tokens=1)

    assert raw.headers["x-request-id"]
    assert raw.parse().choices[0].finish_reason == "length"


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    """`models.list` and `models.retrieve` know the served name."""
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL

"""`/v1/completions`: prompts of every form, choices, echo, log probabilities, stop strings."""

from typing import Any

import pytest

from steelyard_runtime.testing.byte_tokenizer import IM_END, byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig

pytestmark = pytest.mark.anyio


async def test_answer_has_openais_shape(rig: Rig) -> None:
    """A plain completion has text, finish reason and usage."""
    answer = (await rig.complete(max_tokens=5)).json()

    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["model"] == "fake"
    assert answer["choices"] == [
        {
            "index": 0,
            "text": "Hello",
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 5,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("ab", [[97, 98]]),
        (["ab", "c"], [[97, 98], [99]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
        ("<|im_end|>a", [[IM_END, 97]]),
    ],
    ids=["text", "texts", "ids", "id lists", "special token"],
)
async def test_prompt_forms_reach_the_engine(
    rig: Rig, prompt: Any, prompts: list[list[int]]
) -> None:
    """Texts, ids and arrays of both become one sequence a prompt, in order."""
    answer = (await rig.complete(prompt=prompt)).json()

    assert [request.prompt_token_ids for request in rig.engine.added] == prompts
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(prompts)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, prompts))


async def test_choices_share_a_group_and_differ_in_index(rig: Rig) -> None:
    """`n` becomes n sequences with one seed, told apart by the choice index."""
    answer = (await rig.complete(n=3, seed=7)).json()

    assert [request.params.choice_index for request in rig.engine.added] == [0, 1, 2]
    assert {request.params.seed for request in rig.engine.added} == {7}
    assert len({request.group_id for request in rig.engine.added}) == 1
    assert len({request.request_id for request in rig.engine.added}) == 3
    assert answer["usage"]["completion_tokens"] == 15
    assert answer["usage"]["prompt_tokens"] == 2


async def test_seed_is_drawn_where_none_is_given(rig: Rig) -> None:
    """Two requests without a seed get different ones, below 2**63."""
    await rig.complete()
    await rig.complete()

    first, second = (request.params.seed for request in rig.engine.added)
    assert first != second
    assert max(first, second) < 2**63


async def test_sampling_fields_reach_the_engine(rig: Rig) -> None:
    """Every sampling field travels as it was given."""
    await rig.complete(
        temperature=0.5,
        top_p=0.9,
        top_k=-1,
        min_p=0.1,
        presence_penalty=1,
        frequency_penalty=-1.5,
        repetition_penalty=1.1,
        logit_bias={"97": 5, "98": -100},
        seed=-1,
        min_tokens=2,
        ignore_eos=True,
        stop_token_ids=[10, 10, 11],
        cache_salt="mine",
    )

    request = rig.engine.added[0]
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 0, 0.1)
    assert (params.presence_penalty, params.frequency_penalty) == (1.0, -1.5)
    assert params.repetition_penalty == 1.1
    assert params.logit_bias == {97: 5.0, 98: -100.0}
    assert params.seed == 2**64 - 1
    assert (params.max_tokens, params.min_tokens, params.ignore_eos) == (5, 2, True)
    assert params.stop_token_ids == (10, 11)
    assert request.cache_salt == "mine"


async def test_default_length_is_sixteen_tokens(rig: Rig) -> None:
    """A completion without `max_tokens` gets OpenAI's default."""
    await rig.complete(max_tokens=None)

    assert rig.engine.added[0].params.max_tokens == 16


async def test_echo_returns_the_prompt_before_the_text(rig: Rig) -> None:
    """`echo` puts the prompt in front, given as text or as ids."""
    text = (await rig.complete(prompt="Hi ", echo=True)).json()
    ids = (await rig.complete(prompt=byte_ids("Yo "), echo=True)).json()

    assert text["choices"][0]["text"] == "Hi Hello"
    assert ids["choices"][0]["text"] == "Yo Hello"


async def test_logprobs_have_tokens_offsets_and_tops(rig: Rig) -> None:
    """`logprobs` lists token, value, alternatives and offsets."""
    answer = (await rig.complete(max_tokens=2, logprobs=1)).json()

    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["H", "e"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"H": -0.5}, {"e": -0.5}],
        "text_offset": [0, 1],
    }


async def test_echo_with_logprobs_starts_with_the_prompt(rig: Rig) -> None:
    """The first prompt token has no log probability: nothing predicts it."""
    answer = (await rig.complete(prompt="ab", max_tokens=1, echo=True, logprobs=0)).json()

    logprobs = answer["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["a", "b", "H"]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.5]
    assert logprobs["top_logprobs"][0] is None
    assert rig.engine.added[0].params.prompt_logprobs == 0


async def test_incomplete_characters_have_names_of_their_own(rig: Rig) -> None:
    """A token that is a part of a character is named by its bytes."""
    rig.engine.script = lambda _: Script(byte_ids("é"))

    answer = (await rig.complete(logprobs=0)).json()

    assert answer["choices"][0]["logprobs"]["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert answer["choices"][0]["text"] == "é"


@pytest.mark.parametrize(
    ("fields", "text", "count"),
    [
        ({"stop": "wor"}, "Hello, ", 10),
        ({"stop": ["xx", "lo"]}, "Hel", 5),
        ({"stop": "wor", "include_stop_str_in_output": True}, "Hello, wor", 10),
    ],
    ids=["one", "several", "included"],
)
async def test_stop_string_ends_the_text_and_aborts_the_sequence(
    rig: Rig, fields: dict[str, Any], text: str, count: int
) -> None:
    """Text ends before the stop string; tokens count up to the one that completed it."""
    answer = (await rig.complete(max_tokens=200, **fields)).json()

    choice = answer["choices"][0]
    stops = fields["stop"] if isinstance(fields["stop"], list) else [fields["stop"]]
    assert choice["text"] == text
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] in stops
    assert answer["usage"]["completion_tokens"] == count
    await rig.until(lambda: rig.engine.aborted, "the sequence is aborted")


async def test_tokens_after_a_stop_string_are_ignored(rig: Rig) -> None:
    """Tokens that came in one output with the stop string are neither shown nor counted."""
    rig.engine.script = lambda _: Script(byte_ids("abSTOPcd"), tokens_per_output=8)

    answer = (await rig.complete(stop="STOP", return_token_ids=True)).json()

    assert answer["choices"][0]["text"] == "ab"
    assert answer["choices"][0]["token_ids"] == byte_ids("abSTOP")
    assert answer["usage"]["completion_tokens"] == 6


async def test_stop_token_is_named_and_left_out_of_the_text(rig: Rig) -> None:
    """A stop token id ends the text without its own text, and is the stop reason."""
    rig.engine.script = lambda _: Script(byte_ids("abX"), "stop")

    answer = (await rig.complete(stop_token_ids=[ord("X")])).json()

    choice = answer["choices"][0]
    assert (choice["text"], choice["stop_reason"]) == ("ab", ord("X"))
    assert answer["usage"]["completion_tokens"] == 3


async def test_end_of_sequence_has_no_stop_reason(rig: Rig) -> None:
    """The model's own end is `stop` with no reason, and its token is not shown."""
    rig.engine.script = lambda _: Script([*byte_ids("ab"), IM_END], "stop")

    choice = (await rig.complete()).json()["choices"][0]

    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("ab", "stop", None)


async def test_cached_tokens_are_in_usage(rig: Rig) -> None:
    """Prompt tokens from the prefix cache are counted once a prompt."""
    rig.engine.script = lambda _: Script(byte_ids("ab"), num_cached_tokens=16)

    usage = (await rig.complete(n=2)).json()["usage"]

    assert usage["prompt_tokens_details"] == {"cached_tokens": 16}


async def test_token_ids_are_returned_on_request(rig: Rig) -> None:
    """`return_token_ids` adds prompt and output ids to the choice."""
    choice = (await rig.complete(max_tokens=2, return_token_ids=True)).json()["choices"][0]

    assert choice["prompt_token_ids"] == byte_ids("Hi")
    assert choice["token_ids"] == byte_ids("He")


async def test_json_schema_becomes_a_grammar(rig: Rig) -> None:
    """`response_format` travels as the schema's text."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    given = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    await rig.complete(response_format=given)
    await rig.complete(response_format={"type": "json_object"})
    await rig.complete(response_format={"type": "text"})

    first, second, third = (request.params.grammar for request in rig.engine.added)
    assert first is not None
    assert (first.kind, '"integer"' in first.text) == ("json_schema", True)
    assert second is not None
    assert second.kind == "json_object"
    assert third is None

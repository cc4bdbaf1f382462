"""`/v1/chat/completions`: messages, lengths, log probabilities, reasoning."""

from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.byte_tokenizer import byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig, events, running_worker

pytestmark = pytest.mark.anyio


def prompt_text(rig: Rig) -> str:
    """Return the last prompt, special tokens written as `|`."""
    ids = rig.engine.added[-1].prompt_token_ids
    return bytes(i if i < 256 else ord("|") for i in ids).decode()


async def test_answer_has_openais_shape(rig: Rig) -> None:
    """A chat answer is one assistant message."""
    answer = (await rig.chat(max_tokens=5)).json()

    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == len(rig.engine.added[0].prompt_token_ids)


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "user", "content": "Hi"}], "|user\nHi|\n|assistant\n"),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "|user\nHi|\n|assistant\n",
        ),
        ([{"role": "developer", "content": "Hi"}], "|system\nHi|\n|assistant\n"),
    ],
    ids=["text", "parts", "developer"],
)
async def test_messages_become_the_templates_prompt(
    rig: Rig, messages: list[dict[str, Any]], prompt: str
) -> None:
    """Texts, part lists and the developer role all reach the template."""
    await rig.chat(messages=messages)

    assert prompt_text(rig) == prompt


async def test_a_final_message_can_be_continued(rig: Rig) -> None:
    """`continue_final_message` leaves the last turn open."""
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "He"}]

    await rig.chat(messages=messages, add_generation_prompt=False, continue_final_message=True)

    assert prompt_text(rig) == "|user\nHi|\n|assistant\nHe"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 3}, 3),
        ({"max_tokens": None, "max_completion_tokens": 4}, 4),
        ({"max_tokens": 3, "max_completion_tokens": 4}, 4),
        ({"max_tokens": None}, None),
    ],
    ids=["older", "newer", "both", "neither"],
)
async def test_length_fields(rig: Rig, fields: dict[str, Any], expected: int | None) -> None:
    """Either field bounds the answer; without one the model's length does."""
    rig.engine.script = lambda _: Script(byte_ids("a"))

    await rig.chat(**fields)

    request = rig.engine.added[0]
    room = rig.engine.max_model_len - len(request.prompt_token_ids)
    assert request.params.max_tokens == (expected or room)


async def test_logprobs_list_tokens_bytes_and_tops(rig: Rig) -> None:
    """Chat's log probabilities have bytes and so many alternatives as were asked for."""
    answer = (await rig.chat(max_tokens=1, logprobs=True, top_logprobs=2)).json()

    content = answer["choices"][0]["logprobs"]["content"]
    assert len(content) == 1
    assert (content[0]["token"], content[0]["logprob"], content[0]["bytes"]) == ("H", -0.5, [72])
    assert [top["logprob"] for top in content[0]["top_logprobs"]] == [-0.5, -1.0]


async def test_streamed_logprobs_come_with_their_text(rig: Rig) -> None:
    """Each chunk has the log probabilities of its own tokens, the finish chunk none."""
    found = events(await rig.chat(max_tokens=2, logprobs=True, stream=True))[1:-1]

    tokens = [
        [entry["token"] for entry in (e["choices"][0]["logprobs"] or {}).get("content", [])]
        for e in found
    ]
    assert tokens == [["H"], ["e"], []]


async def test_reasoning_is_told_apart_from_content(model: Path) -> None:
    """With a reasoning parser the thoughts are `reasoning_content`, streamed or not."""
    async with running_worker(model, reasoning_parser="qwen3") as rig:
        rig.engine.script = lambda _: Script(byte_ids("<think>hm</think>yes"), "stop")
        whole = (await rig.chat(max_tokens=99)).json()["choices"][0]["message"]
        found = events(await rig.chat(max_tokens=99, stream=True))[:-1]

    deltas = [event["choices"][0]["delta"] for event in found]
    assert (whole["reasoning_content"], whole["content"]) == ("hm", "ye")
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "hm"
    assert "".join(d.get("content", "") for d in deltas) == "ye"


async def test_token_ids_are_returned_on_request(rig: Rig) -> None:
    """`return_token_ids` adds the prompt's ids to the answer and each choice's to the choice."""
    answer = (await rig.chat(max_tokens=2, n=2, return_token_ids=True)).json()

    assert answer["prompt_token_ids"] == rig.engine.added[0].prompt_token_ids
    assert [choice["token_ids"] for choice in answer["choices"]] == [byte_ids("He")] * 2

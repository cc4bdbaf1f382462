"""What raises while an answer's text is made ends that request alone, and its sequence."""

import asyncio
from typing import Any

import httpx
import pytest

from steelyard_runtime.server import chat_answer, completion_answer, generation
from steelyard_runtime.server.chat_deltas import ChoiceDeltas
from steelyard_runtime.testing.byte_tokenizer import byte_ids
from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig, events
from steelyard_runtime.testing.undisturbed import Panic, raise_once
from steelyard_runtime.tokenization import output_text
from steelyard_runtime.tokenization.detokenizer import Detokenizer
from steelyard_runtime.tokenization.stop_strings import StopChecker
from steelyard_runtime.tokenization.tokenizer import Tokenizer

pytestmark = pytest.mark.anyio

TEXT = "hello there"
OTHERS = 8

# (where, what, chat or not, further fields)
WORK: list[tuple[Any, str, bool, dict[str, Any]]] = [
    (generation, "OutputText", False, {}),
    (output_text.OutputText, "push", False, {}),
    (Detokenizer, "push", True, {}),
    (Detokenizer, "finish", False, {}),
    (StopChecker, "push", False, {"stop": "never"}),
    (completion_answer.CompletionAnswer, "_logprobs", False, {"logprobs": 2}),
    (Tokenizer, "token_bytes", False, {"logprobs": 2}),
    (chat_answer, "chat_logprobs", True, {"logprobs": True, "top_logprobs": 2}),
    (chat_answer.ChatAnswer, "_role", True, {"stream": True}),
    (completion_answer.CompletionAnswer, "closing", False, {"stream": True}),
    (completion_answer.CompletionAnswer, "body", False, {}),
    (ChoiceDeltas, "push", True, {"stream": True}),
    (ChoiceDeltas, "collect", True, {}),
    (ChoiceDeltas, "message", True, {}),
    (ChoiceDeltas, "finish_reason", True, {}),
]


def text_of(response: httpx.Response) -> str | None:
    """Return the answer's text; None where it failed as it should."""
    if response.headers["content-type"].startswith("text/event-stream"):
        found = events(response)
        if "error" in found[-1]:
            assert found[-1]["error"]["code"] == "answer_failed"
            return None
        choices = [event["choices"][0] for event in found if event != "[DONE]"]
        return "".join(
            each["text"] if "text" in each else each["delta"].get("content") or ""
            for each in choices
        )
    if response.status_code != 200:
        assert response.status_code == 500
        assert response.json()["error"]["code"] in ("answer_failed", "internal_error")
        return None
    choice = response.json()["choices"][0]
    text: str = choice["text"] if "text" in choice else choice["message"]["content"]
    return text


@pytest.mark.parametrize(
    "work", WORK, ids=[f"{getattr(owner, '__name__', owner)}.{name}" for owner, name, _, _ in WORK]
)
async def test_a_text_that_cannot_be_made_ends_its_request_alone(
    own_rig: Rig, monkeypatch: pytest.MonkeyPatch, work: tuple[Any, str, bool, dict[str, Any]]
) -> None:
    """One of nine answers fails with 500 or an error event; eight have their whole text."""
    owner, name, is_chat, fields = work
    own_rig.engine.script = lambda _: Script(byte_ids(TEXT))
    calls = raise_once(monkeypatch.setattr, owner, name, 4, Panic("of a library"))
    ask = own_rig.chat if is_chat else own_rig.complete
    answers = await asyncio.gather(
        *(ask(max_tokens=len(TEXT), **fields) for _ in range(OTHERS + 1))
    )

    assert calls() >= 4
    texts = [text_of(response) for response in answers]
    assert sorted(texts, key=str) == sorted([None, *[TEXT] * OTHERS], key=str)
    assert (await own_rig.http.get("/health")).status_code == 200


async def test_a_failed_text_frees_its_sequence(
    own_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is told to give it up while it still generates."""
    own_rig.engine.script = lambda _: Script(byte_ids("a" * 1000))
    raise_once(monkeypatch.setattr, Detokenizer, "push", 1, RuntimeError("no such byte"))
    response = await own_rig.complete(max_tokens=1000)

    assert text_of(response) is None
    assert "RuntimeError" in response.json()["error"]["message"]
    await own_rig.until(lambda: own_rig.engine.aborted, "the sequence is aborted")


async def test_long_prompt_logprobs_are_written_beside_other_streams(own_rig: Rig) -> None:
    """`echo` with log probabilities of many positions is whole, and in order."""
    response = await own_rig.complete(prompt="x" * 300, echo=True, logprobs=2, max_tokens=2)
    logprobs = response.json()["choices"][0]["logprobs"]

    assert len(logprobs["tokens"]) == len(logprobs["top_logprobs"]) == 302
    assert logprobs["text_offset"] == list(range(302))

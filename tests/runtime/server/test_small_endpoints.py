"""Models, version, probes, tokenizing, the OpenAPI document."""

from typing import Any

import pytest

from steelyard_runtime.testing.byte_tokenizer import byte_ids
from steelyard_runtime.testing.http_worker import Rig

pytestmark = pytest.mark.anyio


async def test_models_lists_the_served_one(rig: Rig) -> None:
    """The list has one model with its length."""
    listed = (await rig.http.get("/v1/models")).json()

    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["fake"]
    assert listed["data"][0]["max_model_len"] == 4096


async def test_one_model_by_its_name(rig: Rig) -> None:
    """The served model is described by name; another name is a 404."""
    known = await rig.http.get("/v1/models/fake")
    unknown = await rig.http.get("/v1/models/other")

    assert known.json()["id"] == "fake"
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


async def test_probes_of_a_ready_worker(rig: Rig) -> None:
    """Health, readiness and version answer 200."""
    for path in ("/health", "/ready", "/version"):
        assert (await rig.http.get(path)).status_code == 200


async def test_text_and_ids_round_trip(rig: Rig) -> None:
    """`/tokenize` and `/detokenize` are each other's inverse, in vLLM's shapes."""
    text = "Añ 1\n<|im_end|>"
    tokenized = (await rig.http.post("/tokenize", json={"prompt": text})).json()
    back = (await rig.http.post("/detokenize", json={"tokens": tokenized["tokens"]})).json()

    assert tokenized["count"] == len(tokenized["tokens"])
    assert tokenized["max_model_len"] == 4096
    assert back == {"prompt": text}


async def test_tokenize_knows_conversations(rig: Rig) -> None:
    """Messages are rendered as a chat's are."""
    messages = [{"role": "user", "content": "Hi"}]
    await rig.chat(messages=messages)

    body = {"messages": messages, "return_token_strs": True}
    tokenized = (await rig.http.post("/tokenize", json=body)).json()

    assert tokenized["tokens"] == rig.engine.added[0].prompt_token_ids
    assert tokenized["token_strs"][0] == "<|im_start|>"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
        ("/tokenize", {"prompt": 5}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": "abc"}),
        ("/detokenize", {"tokens": [258]}),
        ("/detokenize", {"tokens": [-1]}),
    ],
    ids=str,
)
async def test_wrong_token_requests_are_400(rig: Rig, path: str, body: Any) -> None:
    """Wrong bodies are told in one sentence."""
    response = await rig.http.post(path, json=body)

    assert response.status_code == 400
    assert response.json()["error"]["param"]


async def test_openapi_describes_every_endpoint(rig: Rig) -> None:
    """Each endpoint is there, with its request schema where it takes one; pages are off."""
    document = (await rig.http.get("/openapi.json")).json()

    assert set(document["paths"]) == {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/tokenize",
        "/detokenize",
        "/version",
        "/health",
        "/ready",
        "/metrics",
    }
    for name in ("CompletionRequest", "ChatRequest", "TokenizeRequest", "DetokenizeRequest"):
        assert name in document["components"]["schemas"]
    assert (await rig.http.get("/docs")).status_code == 404


async def test_long_prompts_are_encoded_aside(rig: Rig) -> None:
    """A text beyond the inline limit, encoded in a thread, gives the same ids."""
    text = "word " * 1000

    tokenized = (await rig.http.post("/tokenize", json={"prompt": text})).json()

    assert tokenized["tokens"] == byte_ids(text)

"""Wrong requests: one sentence in OpenAI's shape, the right status, nothing disturbed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from steelyard_runtime.testing.http_worker import Rig, running_worker

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"
ALL_MEMBERS = {"message", "type", "param", "code"}


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error object of a response with this status."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == ALL_MEMBERS
    assert error["message"]
    assert "Traceback" not in response.text
    return error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", [1]),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", -2),
        ("top_k", 1.5),
        ("min_p", 2),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-45),
        ("repetition_penalty", 0.0099),
        ("repetition_penalty", 1e38),
        ("temperature", 1e308),
        ("top_p", -1e-320),
        ("min_p", 1.0000001),
        ("presence_penalty", -1e308),
        ("logit_bias", {"1": 1e39}),
        ("logit_bias", {str(2**32 - 1): 1}),
        ("logit_bias", {"-1": 1}),
        ("n", 0),
        ("n", 129),
        ("n", 33),
        ("n", "2"),
        ("logprobs", 21),
        ("logprobs", -1),
        ("max_tokens", 0),
        ("max_tokens", 2**40),
        ("max_tokens", 4096),
        ("min_tokens", 6),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("top_k", 2**63),
        ("min_tokens", -1),
        ("n", 2**63),
        ("best_of", 2**63),
        ("prompt", [2**32 - 1]),
        ("prompt", [[1], [2**31]]),
        ("stop_token_ids", [2**32 - 1]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [1] * 257),
        ("steelyard", {"resume_token_ids": [2**32 - 1]}),
        ("steelyard", {"resume_token_ids": [-1]}),
        ("steelyard", {"resume_token_ids": [258]}),
        ("seed", "7"),
        ("stop", ["a"] * 17),
        ("stop", ""),
        ("stop", [1]),
        ("stop_token_ids", [258]),
        ("stop_token_ids", ["a"]),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"99999": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", [1]),
        ("best_of", 2),
        ("suffix", "end"),
        ("stream", 1),
        ("echo", "yes"),
        ("prompt", 5),
        ("prompt", []),
        ("prompt", ""),
        ("prompt", [[]]),
        ("prompt", [1, "a"]),
        ("prompt", [258]),
        ("prompt", [-1]),
        ("prompt", None),
        ("prompt", {"a": 1}),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("stream_options", {"include_usage": True}),
        ("kv_transfer_params", []),
        ("steelyard", {"resume_token_ids": "x"}),
        ("model", 5),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_wrong_values_name_the_field(rig: Rig, field: str, value: Any) -> None:
    """A wrong value is a 400 whose `param` is the field."""
    error = error_of(await rig.complete(**{field: value}), 400)

    assert (error["param"] or "").split(".")[0] == field
    assert error["type"] == "invalid_request_error"
    assert rig.engine.added == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools.0.function.name",
        ),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs"),
    ],
    ids=str,
)
async def test_wrong_chat_values_name_the_field(
    rig: Rig, fields: dict[str, Any], param: str
) -> None:
    """Chat's own fields are checked as well, down to the member."""
    assert error_of(await rig.chat(**fields), 400)["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"text"',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e400}',
        b'{"prompt": "a", "max_tokens": 1' + b"0" * 400 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xff"}',
        b'{"prompt": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": '
        + b'{"a":' * 500
        + b"1"
        + b"}" * 500
        + b"}}}",
    ],
    ids=lambda body: repr(body[:60]),
)
async def test_bodies_that_are_no_json_object(rig: Rig, body: bytes) -> None:
    """Damaged, non-finite, oversized and bottomless JSON is a 400."""
    error_of(await rig.http.post("/v1/completions", content=body, headers=JSON), 400)

    assert (await rig.complete()).status_code == 200


async def test_nul_and_other_control_characters_are_text(rig: Rig) -> None:
    """Control characters in a prompt are just characters."""
    response = await rig.complete(prompt="a\0b\x1b")

    assert response.status_code == 200
    assert rig.engine.added[0].prompt_token_ids == [97, 0, 98, 27]


async def test_unknown_model_is_404(rig: Rig) -> None:
    """Another model's name is not found."""
    error = error_of(await rig.complete(model="gpt-9"), 404)

    assert (error["param"], error["code"]) == ("model", "model_not_found")


async def test_too_long_prompt_names_the_lengths(rig: Rig) -> None:
    """A prompt without room for one token says how long it is and what fits."""
    error = error_of(await rig.complete(prompt="x" * 4096, max_tokens=None), 400)

    assert "4096" in error["message"]
    assert error["code"] == "context_length_exceeded"


async def test_absurdly_long_text_is_refused_unread(rig: Rig) -> None:
    """A text that cannot fit whatever its tokens are is refused by its length alone."""
    error = error_of(await rig.complete(prompt="x" * 1_000_000), 400)

    assert "1000000 characters" in error["message"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/embeddings", "/nothing", "/v1/tokenize"])
async def test_unknown_paths_say_what_is_supported(rig: Rig, path: str) -> None:
    """An unknown path is a 404 that lists the endpoints."""
    error = error_of(await rig.http.post(path, json={}), 404)

    assert "/v1/chat/completions" in error["message"]


async def test_wrong_method_names_the_right_one(rig: Rig) -> None:
    """A wrong method is a 405 with `Allow`."""
    response = await rig.http.get(CHAT)

    error_of(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded"])
async def test_wrong_content_type_is_415(rig: Rig, kind: str) -> None:
    """Only JSON is taken."""
    response = await rig.http.post(CHAT, content=b"{}", headers={"content-type": kind})

    assert "application/json" in error_of(response, 415)["message"]


async def test_large_bodies_are_413(model: Path) -> None:
    """Bodies above the limit are refused, with a declared length and in chunks alike."""

    async def chunks() -> Any:
        for _ in range(64):
            yield b"x" * 1024

    async with running_worker(model, max_request_bytes=10_000) as small:
        declared = await small.http.post(CHAT, content=b"x" * 20_000, headers=JSON)
        chunked = await small.http.post(CHAT, content=chunks(), headers=JSON)
        after = await small.complete()

    assert "10000 bytes" in error_of(declared, 413)["message"]
    error_of(chunked, 413)
    assert after.status_code == 200


async def test_unknown_fields_are_ignored_and_counted(own_rig: Rig) -> None:
    """Fields of other servers do no harm; the metric names them, within bounds."""
    response = await own_rig.complete(no_stop_trim=True, separate_reasoning=1)
    await own_rig.complete(**{f"field_{i}": 1 for i in range(100)}, **{"bad name\n": 1})
    text = (await own_rig.http.get("/metrics")).text

    assert response.status_code == 200
    counted = [
        line for line in text.splitlines() if line.startswith("steelyard:ignored_request_fields_")
    ]
    assert any('field="no_stop_trim"' in line and line.endswith(" 1.0") for line in counted)
    assert any('field="other"' in line for line in counted)
    assert len(counted) <= 65


async def test_what_is_no_http_gets_the_same_shape(rig: Rig) -> None:
    """Bytes that are no HTTP are answered with the error object, and the connection is closed."""
    url = rig.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"NONSENSE \x01\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(body)["error"]) == ALL_MEMBERS


async def test_null_is_as_absent(rig: Rig) -> None:
    """Clients that write every field as null get the defaults."""
    names = (
        "stream n temperature top_p top_k min_p presence_penalty frequency_penalty logit_bias seed "
        "stop stop_token_ids response_format echo logprobs best_of suffix stream_options"
    )

    response = await rig.complete(**dict.fromkeys(names.split()))

    assert response.status_code == 200

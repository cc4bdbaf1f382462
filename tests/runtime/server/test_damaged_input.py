"""Damaged requests of every kind: below 500 each, a sentence, and no traceback in the log.

Valid bodies with everything in them are changed at random places, as texts and as bytes. The
draws are the same in every run; heads and paths are in `test_damaged_heads.py`.
"""

import copy
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from steelyard_runtime.testing.fake_engine import Script
from steelyard_runtime.testing.http_worker import Rig, running_worker

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
CHANGES = 150
SAMPLING: dict[str, Any] = {
    "model": "fake",
    "n": 1,
    "stream": False,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"65": 1.5},
    "seed": 7,
    "max_tokens": 3,
    "min_tokens": 1,
    "stop": ["x", "yy"],
    "stop_token_ids": [7],
    "ignore_eos": True,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"a": {}}}},
    },
    "cache_salt": "salt",
    "return_token_ids": True,
    "steelyard": {"resume_token_ids": [65], "timing": True},
}
REMOTE = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[1, 2]],
    "remote_engine_id": "e",
    "remote_request_id": "r",
    "remote_host": "127.0.0.1",
    "remote_port": 5600,
    "remote_num_tokens": 16,
    "steelyard": {"fingerprint": "f"},
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}},
    }
]
MESSAGES = [
    {"role": "system", "content": "be"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "so",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "2"},
    {"role": "user", "content": "go on"},
]
SEEDS: dict[str, tuple[str, dict[str, Any]]] = {
    "completion": ("/v1/completions", {**SAMPLING, "prompt": "a", "echo": True, "logprobs": 2}),
    "stream": (
        "/v1/completions",
        {"prompt": [1, 2], "stream": True, "stream_options": {"include_usage": True}},
    ),
    "several": ("/v1/completions", {"prompt": [[1], [2]], "n": 2, "best_of": 2, "max_tokens": 2}),
    "decode": ("/v1/completions", {"prompt": "a", "kv_transfer_params": REMOTE}),
    "prefill": (
        "/v1/completions",
        {"prompt": "a", "kv_transfer_params": {"do_remote_decode": True}, "min_tokens": 5},
    ),
    "chat": (
        "/v1/chat/completions",
        {**SAMPLING, "messages": MESSAGES, "tools": TOOLS, "tool_choice": "auto"},
    ),
    "called": (
        "/v1/chat/completions",
        {
            "messages": MESSAGES,
            "tools": TOOLS,
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "top_logprobs": 2,
            "chat_template_kwargs": {"a": {"b": [1]}},
            "reasoning_effort": "low",
        },
    ),
    "tokenize": ("/tokenize", {"prompt": "a", "return_token_strs": True}),
    "tokenize chat": ("/tokenize", {"messages": MESSAGES, "tools": TOOLS}),
    "detokenize": ("/detokenize", {"tokens": [1, 2, 257]}),
}
ADMIN: dict[str, tuple[str, dict[str, Any]]] = {
    "drain": ("/drain", {"epoch": 0, "deadlineSeconds": 1000.0}),
    "role": ("/role", {"role": "both", "epoch": 0}),
}


def nested(depth: int, leaf: Any = 1) -> Any:
    """Return an object nested so deep."""
    for _ in range(depth):
        leaf = {"a": leaf}
    return leaf


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 5e-324, 0.1),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1, -(2**63)),
    *("", "\0", "\x1b[31m", "a" * 5000, "\ufffe\u2028\n\r", "💥" * 20, "{", "-1", "1e400", "null"),
    *([], {}, [[]], [{}], [None], [1, "a"], {"": ""}, {"a": None}, [[1], "a"], [True], [-1], [1.0]),
    *([2**32 - 1], [[2**63 - 1]], {"type": "function"}, {"include_usage": "yes"}, ["a", 1]),
    *(nested(20), nested(95), nested(200), nested(255), [nested(98)], ["a"] * 300, [0] * 3000),
]
# What no JSON library would write.
SPLICES = [
    *(b"\xff", b"\xc3\x28", b"\\ud800", b"\\u0000", b"\0", b"\\", b'"', b"}", b"]", b"{", b"["),
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-0",
        b"01",
        b"9" * 400,
        b"18446744073709551616",
    ),
    *(
        b"[" * 5000,
        b'{"a":' * 300,
        b"," * 50,
        b"//",
        b"\xef\xbb\xbf",
        b"\r\n\r\n",
        b"null",
        b"\x7f",
    ),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each member."""
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in members:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def changed(draw: random.Random, body: dict[str, Any]) -> bytes:
    """Return a body with one to three changes."""
    body = copy.deepcopy(body)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        found = list(places(body))
        if not found:
            break
        *outer, key = draw.choice(found)
        target: Any = body
        for name in outer:
            target = target[name]
        kind = draw.randrange(8)
        if kind == 0:
            del target[key]
        elif kind == 1 and isinstance(target, dict):
            target[draw.choice(["", "a\0b", "x" * 300, *SAMPLING])] = draw.choice(VALUES)
        else:
            target[key] = copy.deepcopy(draw.choice(VALUES))
    raw = orjson.dumps(body) if depth_is_fine(body) else str(body).replace("'", '"').encode()
    for _ in range(draw.choice([0, 0, 0, 1, 2])):
        at = draw.randrange(len(raw))
        raw = raw[:at] + draw.choice(SPLICES) + raw[at + draw.randrange(3) :]
    return raw


def depth_is_fine(body: Any) -> bool:
    """Whether orjson writes it."""
    try:
        orjson.dumps(body)
    except orjson.JSONEncodeError:
        return False
    return True


@pytest.fixture(scope="module")
async def fuzzed(model: Path) -> AsyncIterator[Rig]:
    """A worker whose engine says little."""
    async with running_worker(model) as running:
        running.engine.script = lambda request: Script([65, 66])
        yield running


def check(answer: httpx.Response, body: bytes) -> None:
    """No failure of the server; an error is a short sentence on one line."""
    assert answer.status_code < 500, (answer.status_code, answer.text, body[:2000])
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error["message"], body[:2000]
        assert "\n" not in error["message"], body[:2000]
        assert len(error["message"]) < 1000, body[:2000]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("name", SEEDS)
async def test_changed_bodies_are_no_failure(fuzzed: Rig, failures: list[str], name: str) -> None:
    """Whatever is changed in a valid body, the answer is below 500 and nothing fails inside."""
    path, body = SEEDS[name]
    draw = random.Random(f"steelyard {name}")
    valid = await fuzzed.http.post(path, json=body)
    assert valid.status_code == 200, valid.text
    statuses = set()
    for _ in range(CHANGES):
        raw = changed(draw, body)
        answer = await fuzzed.http.post(path, content=raw, headers=JSON)
        check(answer, raw)
        statuses.add(answer.status_code)

    assert failures == []
    assert statuses <= {200, 400, 404}
    assert 400 in statuses
    assert fuzzed.parts.state.open_requests == 0


@pytest.mark.parametrize("name", ADMIN)
async def test_changed_admin_calls_are_no_failure(
    own_rig: Rig, failures: list[str], name: str
) -> None:
    """The admin port is as strict."""
    path, body = ADMIN[name]
    draw = random.Random(f"steelyard {name}")
    for _ in range(CHANGES):
        raw = changed(draw, body)
        answer = await own_rig.admin.post(path, content=raw, headers=JSON)
        check(answer, raw)

    assert failures == []

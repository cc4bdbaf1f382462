"""Large bodies: refused by number before they cost anything, and nobody else's stream waits."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from steelyard_runtime import body_limits
from steelyard_runtime.errors import RequestError
from steelyard_runtime.server.bodies import parse_json
from steelyard_runtime.testing.http_worker import Rig, running_worker

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
# Far above what the work takes (0.2 s on a busy machine), far below what it took (5 to 24 s).
LONGEST_GAP_SECONDS = 4.0


def many(item: bytes, number: int, start: bytes, end: bytes = b"]}") -> bytes:
    """Return a body with an array of equal items."""
    return start + b",".join([item] * number) + end


def numbered(number: int) -> bytes:
    return b",".join(b'"p%d":{}' % i for i in range(number))


LARGE = {
    "messages": (CHAT, many(b'{"role":"user","content":""}', 340_000, b'{"messages":[')),
    "wrong messages": (CHAT, many(b'{"role":"wizard"}', 16_000, b'{"messages":[')),
    "empty arrays": (COMPLETIONS, many(b"[]", 3_000_000, b'{"prompt":[')),
    "wrong token ids": (COMPLETIONS, many(b"null", 1_000_000, b'{"prompt":[1,')),
    "stop strings": (COMPLETIONS, many(b'"a"', 100_000, b'{"prompt":"a","stop":[')),
    "tools": (
        CHAT,
        many(b'{"type":"function","function":{"name":"f"}}', 60_000, b'{"messages":[],"tools":['),
    ),
    "properties": (
        CHAT,
        b'{"messages":[{"role":"user","content":"a"}],"tools":[{"type":"function","function":'
        b'{"name":"f","parameters":{"properties":{' + numbered(190_000) + b"}}}}]}",
    ),
    "unknown fields": (COMPLETIONS, b'{"prompt":"a",' + numbered(190_000) + b"}"),
    "biases": (COMPLETIONS, b'{"prompt":"a","logit_bias":{' + numbered(190_000) + b"}}"),
    "ids to detokenize": ("/detokenize", many(b"1", 1_200_000, b'{"tokens":[')),
    "messages to tokenize": (
        "/tokenize",
        many(b'{"role":"user","content":""}', 16_000, b'{"messages":['),
    ),
    "resumed ids": (
        COMPLETIONS,
        many(b"1", 1_000_000, b'{"prompt":"a","steelyard":{"resume_token_ids":[', b"]}}"),
    ),
}


async def test_no_large_body_holds_up_the_event_loop(rig: Rig) -> None:
    """Each large body is a 400, and between them the loop was never held up for long."""
    gaps = [0.0]

    async def watch() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.002)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    watching = asyncio.create_task(watch())
    answers = {
        name: await rig.http.post(path, content=body, headers=JSON)
        for name, (path, body) in LARGE.items()
    }
    watching.cancel()

    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(
        LARGE, 400
    )
    assert max(gaps) < LONGEST_GAP_SECONDS
    assert all(len(answer.content) < 500 for answer in answers.values())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (many(b"[]", body_limits.MAX_BRACKETS, b"[", b"]"), "objects and arrays"),
        (b"{" + b'"a":1,' * body_limits.MAX_COLONS + b'"a":1}', "members of objects"),
        (many(b'"a:,"', body_limits.MAX_TEXTS + 1, b"[", b"]"), "texts"),
        (many(b"1", body_limits.MAX_COMMAS + 2, b"[", b"]"), "commas"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "at most 100 deep"),
        (b'{"a":' + b"[" * 255 + b"]" * 255 + b"}", "at most 100 deep"),
        (b"{" + numbered(257) + b"}", "256 members"),
        (many(b"1", 16_385, b'{"messages":['), "16384 messages"),
        (many(b"1", 129, b'{"tools":['), "128 tools"),
        (many(b'"a"', 2049, b'{"prompt":['), "2048 prompts"),
        (many(b"1", 1_048_577, b'{"prompt":['), "1048576 token ids"),
        (many(b"1", 1_048_577, b'{"prompt":[[1],[', b"]]}"), "1048576 token ids"),
        (many(b"1", 16_385, b'{"messages":[{"content":[', b"]}]}"), "16384 content parts"),
        (many(b"1", 16_385, b'{"messages":[{"tool_calls":[', b"]}]}"), "16384 tool calls"),
        (many(b"[]", 32_769, b'{"chat_template_kwargs":{"a":[', b"]}}"), "32768 objects"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_each_number_has_a_bound(body: bytes, said: str) -> None:
    """What is beyond a bound is refused with a sentence that has the number."""
    with pytest.raises(RequestError, match=said):
        parse_json(body)


async def test_ordinary_bodies_are_within_the_bounds() -> None:
    """Long conversations, long prompts and large schemas pass."""
    messages = [
        {"role": "user", "content": f"def f_{i}(a: dict) -> None: ..."} for i in range(9999)
    ]
    schema: dict[str, Any] = {"properties": {f"p{i}": {"type": "string"} for i in range(20_000)}}
    body = {"messages": messages, "response_format": {"json_schema": {"schema": schema}}}

    assert parse_json(orjson.dumps(body)) == body
    assert len(parse_json(orjson.dumps({"prompt": list(range(1_000_000))}))["prompt"]) == 1_000_000


async def test_marks_within_texts_do_not_count() -> None:
    """A long prompt may be JSON itself, with quotes and backslashes."""
    text = orjson.dumps([{"a\\": '"[{,:'}] * 50_000).decode() + "\\"
    body = {"prompt": text * 4, "messages": []}

    assert text.count(":") * 4 > body_limits.MAX_COLONS
    assert parse_json(orjson.dumps(body)) == body


async def test_slow_long_bodies_leave_room_for_short_ones(model: Path) -> None:
    """Where long bodies fill the room, another one is a 503, and short ones are served."""
    gate = asyncio.Event()

    async def slow() -> Any:
        yield b'{"prompt": "' + b"x" * 100_000
        await gate.wait()
        yield b'"}'

    async with running_worker(model, max_request_bytes=110_000) as rig:
        sending = [
            asyncio.create_task(rig.http.post(COMPLETIONS, content=slow(), headers=JSON))
            for _ in range(17)
        ]
        await rig.until(lambda: rig.parts.worker.bodies.free_bytes < 100_000, "no room is left")
        refused: httpx.Response = await rig.http.post(COMPLETIONS, json={"prompt": "x" * 100_000})
        served = await rig.complete()
        gate.set()
        await asyncio.gather(*sending)
        free_bytes = rig.parts.worker.bodies.free_bytes

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_long_bodies")
    assert refused.headers["retry-after"] == "1"
    assert served.status_code == 200
    assert free_bytes == 16 * 110_000

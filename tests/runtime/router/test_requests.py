"""What clients may send to the router, and what wrong requests get."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.testing.fake_worker import FakeWorker
from steelyard_runtime.testing.router_service import (
    CHAT,
    COMPLETIONS,
    chat,
    eventually,
    running_service,
)

pytestmark = pytest.mark.anyio

WRONG: dict[str, tuple[Any, str, int, str | None, str]] = {
    "not-json": (b"{", CHAT, 400, None, "must be JSON"),
    "not-utf8": (b'{"a": "\xff"}', CHAT, 400, None, "must be JSON"),
    "array": ([], CHAT, 400, None, "must be a JSON object, got an array"),
    "unknown": (chat(temprature=1), CHAT, 400, "temprature", "`temperature`"),
    "far-from-all": (chat(zzzzzz=1), CHAT, 400, "zzzzzz", "nearest allowed"),
    "of-the-other-api": (
        {"prompt": "x", "top_logprobs": 1},
        COMPLETIONS,
        400,
        "top_logprobs",
        "`logprobs`",
    ),
    "kv": (chat(kv_transfer_params={}), CHAT, 400, "kv_transfer_params", "may not be set"),
    "resume": (chat(steelyard={"resume_token_ids": []}), CHAT, 400, "steelyard", "may not be"),
    "internal-type": (chat(steelyard=3), CHAT, 400, "steelyard", "may not be set"),
    "stream-type": (chat(stream="yes"), CHAT, 400, "stream", "got a string"),
    "n-type": (chat(n="2"), CHAT, 400, "n", "got a string"),
    "n-zero": (chat(n=0), CHAT, 400, "n", "at least 1, got 0"),
    "n-bool": (chat(n=True), CHAT, 400, "n", "got a boolean"),
    "seed-type": (chat(seed=1.5), CHAT, 400, "seed", "got a number"),
    "model-type": (chat(model=["fake"]), CHAT, 400, "model", "got an array"),
    "other-model": (chat(model="gpt"), CHAT, 404, "model", "serves `fake`"),
    "no-such-path": ({}, "/v1/responses", 404, None, "/v1/chat/completions"),
    "wrong-method": ({}, "/v1/models", 405, None, "takes GET"),
    "too-large": (b"x" * 5000, CHAT, 413, None, "4096 bytes"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
async def test_wrong_request_gets_a_sentence(
    tmp_path: Path, case: tuple[Any, str, int, str | None, str]
) -> None:
    """Each wrong request gets its status and an error in OpenAI's shape that names the remedy."""
    body, path, status, param, said = case
    worker = FakeWorker()
    async with running_service(tmp_path, worker, max_request_bytes=4096) as running:
        got, document, _ = await running.post(body, path)

    error = document["error"]
    assert got == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert said in error["message"]
    assert worker.seen == []


async def test_chunked_body_is_limited_too(tmp_path: Path) -> None:
    """A body without a length is cut off at the limit as well."""

    async def chunks() -> Any:
        for _ in range(20):
            yield b"x" * 1000

    async with (
        running_service(tmp_path, FakeWorker(), max_request_bytes=4096) as running,
        running.client.post(running.url + CHAT, data=chunks()) as answer,
    ):
        status = answer.status

    assert status == 413


@pytest.mark.parametrize("given", ["abc-123", None, "has spaces", "x" * 129])
async def test_request_id_is_echoed(tmp_path: Path, given: str | None) -> None:
    """A sound `X-Request-Id` is echoed and goes to the worker; any other is replaced."""
    worker = FakeWorker()
    headers = {} if given is None else {"X-Request-Id": given}
    async with running_service(tmp_path, worker) as running:
        _, _, whole = await running.post(chat(), headers=headers)
        streamed = await running.stream(chat(), headers=headers)

    sent = [one.headers["x-request-id"] for one in worker.seen]
    assert sent == [whole["x-request-id"], streamed.headers["x-request-id"]]
    assert (sent[0] == given) == (given == "abc-123")


async def test_trace_headers_go_on(tmp_path: Path) -> None:
    """W3C trace headers reach the worker; the client's credentials do not."""
    worker = FakeWorker()
    trace = {"traceparent": "00-1-2-01", "tracestate": "a=b", "Authorization": "Bearer mine"}
    async with running_service(tmp_path, worker, worker_api_key="theirs") as running:
        await running.post(chat(), headers=trace)

    seen = worker.seen[0].headers
    assert (seen["traceparent"], seen["tracestate"]) == ("00-1-2-01", "a=b")
    assert seen["authorization"] == "Bearer theirs"


async def test_seed_is_drawn_where_none_is_given(tmp_path: Path) -> None:
    """Every request reaches its worker with a seed of 63 bits; the client's own is kept."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker) as running:
        await running.post(chat())
        await running.post(chat(seed=None))
        await running.post(chat(seed=5))

    first, second, third = (one.body["seed"] for one in worker.seen)
    assert 0 <= first < 2**63
    assert first != second
    assert third == 5


@pytest.mark.parametrize("wanted", [True, False])
async def test_token_ids_are_the_clients_only_if_asked_for(tmp_path: Path, wanted: bool) -> None:
    """The router asks workers for token ids and strips them unless the client asked as well."""
    worker = FakeWorker()
    async with running_service(tmp_path, worker) as running:
        streamed = await running.stream(chat(return_token_ids=wanted))

    assert worker.seen[0].body["return_token_ids"] is True
    assert bool(streamed.token_ids()) == wanted
    assert ("prompt_token_ids" in streamed.events[0]) == wanted


async def test_usage_chunk_is_passed_on(tmp_path: Path) -> None:
    """`stream_options.include_usage` gives one usage chunk, the last before the end."""
    async with running_service(tmp_path, FakeWorker()) as running:
        streamed = await running.stream(chat(stream_options={"include_usage": True}))

    assert [bool(event.get("usage")) for event in streamed.events].count(True) == 1
    assert streamed.events[-1]["usage"]["completion_tokens"] == 12


async def test_models_come_from_the_configuration(tmp_path: Path) -> None:
    """`/v1/models` names the served model and the length that workers report."""
    async with running_service(tmp_path, FakeWorker()) as running:
        _, listed = await running.get("/v1/models")
        _, one = await running.get("/v1/models/fake")
        missing, _ = await running.get("/v1/models/other")

    assert listed["data"] == [one]
    assert (one["id"], one["max_model_len"]) == ("fake", 8192)
    assert missing == 404


async def test_paths_without_a_model_are_forwarded(tmp_path: Path) -> None:
    """`/version` and `/tokenize` are answered by a worker, or 503 where there is none."""
    async with running_service(tmp_path, FakeWorker(), queue_timeout_seconds=0.5) as running:
        _, version = await running.get("/version")
        _, tokens, _ = await running.post({"prompt": "x"}, "/tokenize")
        running.set_members()
        await eventually(lambda: not running.service.pool.workers)
        status, _ = await running.get("/version")

    assert (version["version"], tokens["count"], status) == ("0.0-fake", 3, 503)


async def test_browsers_of_allowed_origins_may_ask(tmp_path: Path) -> None:
    """CORS answers preflights and marks streams for allowed origins, and for no other."""
    async with running_service(
        tmp_path, FakeWorker(), allowed_origins=("https://ours",)
    ) as running:
        good, bad = {"Origin": "https://ours"}, {"Origin": "https://theirs"}
        async with running.client.options(running.url + CHAT, headers=good) as preflight:
            allowed = preflight.headers["Access-Control-Allow-Methods"]
            status = preflight.status
        streamed = await running.stream(chat(), headers=good)
        other = await running.stream(chat(), headers=bad)

    assert (status, allowed) == (204, "GET, POST, OPTIONS")
    assert streamed.headers["access-control-allow-origin"] == "https://ours"
    assert "access-control-allow-origin" not in other.headers


async def test_workers_are_explained(tmp_path: Path) -> None:
    """`/router/workers` shows each worker and the terms of the last scores."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    async with running_service(tmp_path, prefill, decode) as running:
        await running.stream(chat())
        _, document = await running.get("/router/workers")

    by_role = {worker["role"]: worker for worker in document["workers"]}
    assert document["lastPlacement"]["decision"] == "remote"
    assert by_role["prefill"]["lastScores"]["prefill"]["total"] == 0
    assert by_role["decode"]["lastScores"]["decode"]["fingerprint"] == 0.25
    assert by_role["decode"]["rememberedChunks"] > 0


async def test_metrics_are_kept_per_model(tmp_path: Path) -> None:
    """Requests, TTFT, TPOT and end-to-end times are counted under the served model."""
    async with running_service(tmp_path, FakeWorker()) as running:
        await running.stream(chat())
        await running.post(chat(temprature=1))
        counted = [
            await running.metric("requests_total", model="fake", code="200"),
            await running.metric("requests_total", model="fake", code="400"),
            await running.metric("ttft_seconds_count", model="fake"),
            await running.metric("tpot_seconds_count", model="fake"),
            await running.metric("e2e_seconds_count", model="fake"),
        ]

    assert counted == [1, 1, 1, 1, 1]


async def test_large_body_is_asked_for(tmp_path: Path) -> None:
    """A client that sends `Expect: 100-continue` is told to go on."""
    async with running_service(tmp_path, FakeWorker()) as running:
        async with asyncio.timeout(5):
            async with running.client.post(
                running.url + CHAT, json=chat(), expect100=True
            ) as answer:
                status = answer.status

    assert status == 200


async def test_what_is_not_http_gets_the_same_shape(tmp_path: Path) -> None:
    """A request that cannot be parsed is 400 with an error object, not a page of text."""
    async with running_service(tmp_path, FakeWorker()) as running:
        port = int(running.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n")
        answer = await reader.read()
        writer.close()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") or head.startswith(b"HTTP/1.0 400")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}

"""API keys and their limits."""

import json
from pathlib import Path

import pytest

from steelyard_runtime.errors import ConfigError, RequestError
from steelyard_runtime.router.keys import (
    Account,
    ApiKey,
    KeyRing,
    parse_api_keys,
)
from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import (
    CHAT,
    chat,
    eventually,
    running_service,
)

KEYS = (ApiKey("one", "secret-1"), ApiKey("two", "secret-2", max_concurrent=1))


@pytest.mark.parametrize(
    "text",
    ["a\n# comment\n\nb\n", json.dumps({"keys": [{"name": "x", "key": "a"}]})],
    ids=["lines", "json"],
)
def test_keys_are_read_from_both_forms(text: str) -> None:
    """One key a line, or JSON with names and limits."""
    assert parse_api_keys(text, "keys")[0].key == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least one key"),
        ("a\na\n", "the same key twice"),
        ("{", "must be JSON"),
        ('{"keys": [{"name": "x"}]}', "must be JSON"),
        ('{"keys": [{"name": "x", "key": "a", "rpm": 1}]}', "unknown field"),
        ('{"keys": [{"name": "x", "key": ""}]}', "must not be empty"),
        ('{"keys": [{"name": "x", "key": "a", "cacheGroup": ""}]}', "cacheGroup .* not be empty"),
        ('{"keys": [{"name": "x", "key": "a", "maxConcurrent": 0}]}', "at least 1"),
        ('{"keys": [{"name": "x", "key": "a"}, {"name": "x", "key": "b"}]}', "same name twice"),
    ],
)
def test_wrong_key_file_gets_a_sentence(text: str, said: str) -> None:
    """A key file that is wrong is refused without quoting a key."""
    with pytest.raises(ConfigError, match=said):
        parse_api_keys(text, "keys")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Basic secret-1"])
def test_wrong_key_is_refused(header: str | None) -> None:
    """A missing, wrong or otherwise spelled key is 401."""
    with pytest.raises(RequestError) as refused:
        KeyRing(KEYS).account(header)

    assert refused.value.status == 401


def test_rate_refills_with_time() -> None:
    """A key with 60 requests a minute has one more each second, and says when."""
    account = Account(ApiKey("x", "y", requests_per_minute=60), b"")
    for _ in range(60):
        account.enter(100.0)
    with pytest.raises(RequestError) as refused:
        account.enter(100.5)
    account.enter(101.0)

    assert (refused.value.status, refused.value.retry_after_seconds) == (429, 1)


@pytest.mark.anyio
async def test_only_probes_are_open(tmp_path: Path) -> None:
    """With keys configured, everything but probes and metrics asks for one."""
    paths = ("/health", "/ready", "/v1/models", "/router/workers")
    async with running_service(tmp_path, FakeWorker(), api_keys=KEYS) as running:
        got = [(await running.get(path))[0] for path in paths]
        refused, document, headers = await running.post(chat())
        good = await running.stream(chat(), headers={"Authorization": "Bearer secret-1"})

    assert got == [200, 200, 401, 401]
    assert (refused, headers["www-authenticate"]) == (401, "Bearer")
    assert document["error"]["code"] == "invalid_api_key"
    assert good.ended


@pytest.mark.anyio
async def test_concurrency_is_limited_per_key(tmp_path: Path) -> None:
    """A key with one request at once gets 429 for a second, others do not; then it is free."""
    worker = FakeWorker()
    worker.faults.append(Fault(stall_after_tokens=2))
    two, one = ({"Authorization": f"Bearer {key.key}"} for key in reversed(KEYS))
    async with running_service(tmp_path, worker, api_keys=KEYS) as running:
        body = json.dumps(chat(stream=True))
        async with running.client.post(running.url + CHAT, data=body, headers=two):
            await eventually(lambda: bool(worker.seen))
            status, _, headers = await running.post(chat(), headers=two)
            other, _, _ = await running.post(chat(), headers=one)
        await eventually(lambda: running.service.in_flight == 0)
        again, _, _ = await running.post(chat(), headers=two)

    assert (status, headers["retry-after"]) == (429, "1")
    assert (other, again) == (200, 200)


def test_a_key_that_stays_keeps_its_account() -> None:
    """What a key has used of its limits stays used when the file changes."""
    ring = KeyRing([ApiKey("x", "a", requests_per_minute=2), ApiKey("y", "b")])
    first = ring.account("Bearer a")
    assert first is not None
    first.enter(100.0)
    ring.replace([ApiKey("x", "a", requests_per_minute=1)], 100.0)
    again = ring.account("Bearer a")

    assert again is first
    again.enter(100.0)
    with pytest.raises(RequestError):
        again.enter(100.0)

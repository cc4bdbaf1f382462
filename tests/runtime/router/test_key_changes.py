"""Keys while the router runs: files read again, revocation, and caches that keys do not share."""

import asyncio
import os
from pathlib import Path

import pytest

from steelyard_runtime.core.params import SALT_OWNER_DIGITS
from steelyard_runtime.router.keys import ApiKey, cache_salt, parse_api_keys
from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import (
    RunningService,
    chat,
    eventually,
    running_service,
)

KEYS = (ApiKey("one", "secret-1"), ApiKey("two", "secret-2", max_concurrent=1))


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _swap(path: Path, text: str) -> None:
    """Replace a file by moving a link to it, as Kubernetes does with a mounted Secret."""
    fresh = path.with_name(f"{path.name}-{os.urandom(4).hex()}")
    fresh.write_text(text)
    link = fresh.with_suffix(".link")
    link.symlink_to(fresh.name)
    link.rename(path)


@pytest.mark.anyio
async def test_keys_are_read_again(tmp_path: Path) -> None:
    """A removed key is refused on an open connection, a new one works, and wrong files are kept."""
    path = tmp_path / "keys"
    _swap(path, "alice\nbob\n")
    keys = parse_api_keys(path.read_text(), "keys")
    async with running_service(
        tmp_path, FakeWorker(), api_keys=keys, api_keys_file=path
    ) as running:

        async def codes() -> list[int]:
            asked = [
                running.post(chat("x"), headers=_bearer(key)) for key in ("alice", "bob", "eve")
            ]
            return [status for status, _, _ in [await one for one in asked]]

        before = await codes()
        _swap(path, "alice\neve\n")
        for _ in range(200):
            if (after := await codes()) != before:
                break
            await asyncio.sleep(0.05)
        _swap(path, "")
        path.unlink()
        await asyncio.sleep(2.1)  # two looks: nothing may happen
        kept = await codes()

    assert (before, after, kept) == ([200, 200, 401], [200, 401, 200], [200, 401, 200])


@pytest.mark.anyio
async def test_a_revoked_key_ends_its_streams(tmp_path: Path) -> None:
    """A stream of a key that is removed ends with an error, that of another key goes on."""
    worker = FakeWorker()
    worker.faults.extend([Fault(stall_after_tokens=2)] * 2)
    async with running_service(tmp_path, worker, api_keys=KEYS) as running:
        streams = [
            asyncio.create_task(running.stream(chat("x"), headers=_bearer(key.key))) for key in KEYS
        ]
        await eventually(lambda: len(worker.seen) == 2)
        loop = asyncio.get_running_loop()
        running.service.access.keys.replace(KEYS[:1], loop.time())
        ended = await asyncio.wait_for(streams[1], 5)
        await eventually(lambda: sum(one.cancelled for one in worker.seen) == 1)
        worker.resume.set()
        whole = await streams[0]

    assert ended.events[-1]["error"]["code"] == "invalid_api_key"
    assert ended.ended
    assert (whole.ended, len(whole.token_ids())) == (True, 0)
    assert "error" not in whole.events[-1]


def test_the_cache_of_a_line_follows_its_key() -> None:
    """A key of a file of lines keeps its cache, and gets nobody else's, when lines move."""
    alice, bob = parse_api_keys("alice\nbob", "keys")
    (moved,) = parse_api_keys("bob", "keys")

    assert moved.cache_owner == bob.cache_owner != alice.cache_owner
    assert "bob" not in moved.cache_owner


def test_a_salt_is_of_its_key_and_its_client() -> None:
    """Secret, owner and the client's own salt each change it; names cannot imitate each other."""
    salts = {
        cache_salt(*given)
        for given in [
            ("s", "name:a", ""),
            ("t", "name:a", ""),
            ("s", "name:b", ""),
            ("s", "group:a", ""),
            ("s", "name:a", "x"),
            ("s", "name:a:x", ""),
        ]
    }

    assert len(salts) == 6
    assert {len(salt) for salt in salts} == {64}


def test_a_salt_begins_with_its_owner() -> None:
    """A client's own salts do not make many clients of one key; another key begins otherwise."""
    first, second = cache_salt("s", "name:a", "x"), cache_salt("s", "name:a", "y")

    assert first[:SALT_OWNER_DIGITS] == second[:SALT_OWNER_DIGITS]
    assert first[SALT_OWNER_DIGITS:] != second[SALT_OWNER_DIGITS:]
    assert cache_salt("s", "name:b", "x")[:SALT_OWNER_DIGITS] != first[:SALT_OWNER_DIGITS]


@pytest.mark.anyio
async def test_prompts_are_salted_by_key_on_both_legs(tmp_path: Path) -> None:
    """Workers get one salt for each key or group, the same on prefill and decode, never the key."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    keys = (
        ApiKey("a", "key-a"),
        ApiKey("b", "key-b"),
        ApiKey("c", "key-c", cache_group="g"),
        ApiKey("d", "key-d", cache_group="g"),
    )
    async with running_service(
        tmp_path, prefill, decode, api_keys=keys, worker_api_key="secret"
    ) as running:
        for key in keys:
            await running.post(chat(), headers=_bearer(key.key))
        for given in ("mine", None):
            await running.post(chat(cache_salt=given), headers=_bearer("key-a"))
        wrong, document, _ = await running.post(chat(cache_salt=5), headers=_bearer("key-a"))

    salts = [one.body["cache_salt"] for one in decode.seen]
    assert len(set(salts)) == 4
    assert salts[2] == salts[3]
    assert salts[5] == salts[0]
    assert {one.body["cache_salt"] for one in prefill.seen} == set(salts)
    assert not any(key.key in salt for key in keys for salt in salts)
    assert (wrong, document["error"]["param"]) == (400, "cache_salt")


@pytest.mark.anyio
async def test_a_replay_keeps_the_salt(tmp_path: Path) -> None:
    """The worker that goes on after a death gets the same salt."""
    workers = [FakeWorker(), FakeWorker()]
    for worker in workers:
        worker.faults.append(Fault(die_after_tokens=3))
    async with running_service(tmp_path, *workers, api_keys=KEYS) as running:
        streamed = await running.stream(chat("x", cache_salt="mine"), headers=_bearer("secret-1"))

    salts = [one.body["cache_salt"] for worker in workers for one in worker.seen]
    assert streamed.ended
    assert len(salts) > 1
    assert len(set(salts)) == 1


@pytest.mark.anyio
async def test_one_keys_prompt_is_not_warm_for_another(tmp_path: Path) -> None:
    """Where a prompt goes says nothing of other keys: only the same key's prompt counts as seen."""
    async with running_service(
        tmp_path, FakeWorker("prefill"), FakeWorker("decode"), api_keys=KEYS
    ) as running:
        decisions = []
        for key in ("secret-1", "secret-2", "secret-1"):
            await running.post(chat(), headers=_bearer(key))
            decisions.append(await _last_decision(running, key))

    assert decisions == ["remote", "remote", "warm"]


async def _last_decision(running: RunningService, key: str) -> str:
    async with running.client.get(running.url + "/router/workers", headers=_bearer(key)) as answer:
        document = await answer.json()
    decision: str = document["lastPlacement"]["decision"]
    return decision


@pytest.mark.anyio
async def test_the_workers_key_is_read_again(tmp_path: Path) -> None:
    """A new worker key is sent from the next request on, to `/tokenize` as well."""
    path, worker = tmp_path / "key", FakeWorker()
    _swap(path, "old")
    async with running_service(
        tmp_path, worker, worker_api_key="old", worker_api_key_file=path
    ) as running:
        await running.post(chat("x"))
        _swap(path, "new\n")
        for _ in range(200):
            await running.post(chat("x"))
            if worker.seen[-1].headers["authorization"] != "Bearer old":
                break
            await asyncio.sleep(0.05)

    assert worker.seen[0].headers["authorization"] == "Bearer old"
    assert worker.seen[-1].headers["authorization"] == "Bearer new"

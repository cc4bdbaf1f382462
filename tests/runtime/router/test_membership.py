"""The membership file: what is read, what is watched, what happens to members that leave."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.errors import ConfigError
from steelyard_runtime.router.membership import MembershipFile, parse_membership
from steelyard_runtime.router.worker_info import parse_worker_info
from steelyard_runtime.testing.fake_worker import FakeWorker, Fault
from steelyard_runtime.testing.router_service import chat, eventually, running_service

WORKER = {"id": "a", "url": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must be JSON"),
        (b"[]", "must be JSON"),
        (b'{"version": 2, "workers": []}', "must be JSON"),
        (b'{"version": 1}', "workers"),
        (json.dumps({"version": 1, "workers": [WORKER, WORKER]}).encode(), "'a' twice"),
        (b'{"version": 1, "workers": [{"id": "a", "url": "host:1"}]}', "http://host:port"),
        (b'{"version": 1, "workers": [{"id": "a", "url": "http://h:x"}]}', "http://host:port"),
        (b'{"version": 1, "workers": [{"id": "a", "url": "http://h", "role": "x"}]}', "role"),
        (b'\xff{"version": 1}', "must be JSON"),
    ],
)
def test_wrong_document_gets_a_sentence(content: bytes, said: str) -> None:
    """A wrong document is refused with what is wrong in it."""
    with pytest.raises(ConfigError, match=said):
        parse_membership(content, "members")


def test_newer_fields_are_ignored() -> None:
    """A document of a newer writer is read for what is known of it."""
    content = {"version": 1, "generation": 3, "workers": [{**WORKER, "zone": "b"}]}

    assert [one.id for one in parse_membership(json.dumps(content).encode(), "m")] == ["a"]


def test_missing_file_gets_a_sentence(tmp_path: Path) -> None:
    """A file that does not exist is named."""
    with pytest.raises(ConfigError, match=r"nowhere\.json' must be readable"):
        MembershipFile(tmp_path / "nowhere.json").read()


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (
            'x 1\nsteelyard:worker_info{role="prefill",phase="ready",fingerprint="ab"} 1.0\n',
            ("prefill", "ready", "ab"),
        ),
        (
            'steelyard:worker_info{engine="0",fingerprint="",phase="loading",role="both"} 1\n',
            ("both", "loading", None),
        ),
        ("vllm:num_requests_running 0\n", None),
    ],
)
def test_worker_info_is_found(page: str, expected: tuple[Any, ...] | None) -> None:
    """Role, phase and fingerprint come from a worker's own metrics, in any order of labels."""
    info = parse_worker_info(page)

    assert (info and (info.role, info.phase, info.fingerprint)) == expected


@pytest.mark.anyio
async def test_new_member_takes_over(tmp_path: Path) -> None:
    """A worker that appears in the file is used, one that left is not."""
    old, new = FakeWorker(), FakeWorker()
    async with running_service(tmp_path, old, new) as running:
        running.set_members(new)
        await eventually(lambda: len(running.service.pool.workers) == 1)
        for _ in range(3):
            await running.post(chat())

    assert (len(old.seen), len(new.seen)) == (0, 3)


@pytest.mark.anyio
async def test_wrong_content_keeps_the_last_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken file is logged once and changes nothing; the next good one counts again."""
    first, second = FakeWorker(), FakeWorker()
    async with running_service(tmp_path, first, second) as running:
        (tmp_path / "membership.json").write_text('{"version": 1, "work')
        await eventually(lambda: "membership kept" in caplog.text)
        status, _, _ = await running.post(chat())
        (tmp_path / "membership.json").unlink()
        await eventually(lambda: caplog.text.count("membership kept") == 2)
        running.set_members(second)
        await eventually(lambda: len(running.service.pool.workers) == 1)

    assert status == 200
    assert caplog.text.count("membership kept") == 2


@pytest.mark.anyio
async def test_removed_member_keeps_its_streams(tmp_path: Path) -> None:
    """A worker that leaves the membership finishes what it serves and gets nothing new."""
    leaving, staying = FakeWorker(), FakeWorker()
    leaving.faults.append(Fault(stall_after_tokens=3))
    async with running_service(tmp_path, leaving, staying) as running:
        streaming = asyncio.create_task(running.stream(chat()))
        await eventually(lambda: bool(leaving.seen))
        running.set_members(staying)
        await eventually(lambda: len(running.service.pool.workers) == 1)
        await running.post(chat())
        leaving.resume.set()
        streamed = await streaming

    assert streamed.ended
    assert (len(leaving.seen), len(staying.seen)) == (1, 1)


@pytest.mark.anyio
async def test_member_without_details_is_asked(tmp_path: Path) -> None:
    """Where the source knows only names, workers tell role, phase and fingerprint themselves."""
    prefill, decode = FakeWorker("prefill"), FakeWorker("decode")
    unknown = {"role": None, "phase": None, "fingerprint": None}
    async with running_service(tmp_path, prefill, decode, member_fields=unknown) as running:
        streamed = await running.stream(chat())

    assert streamed.ended
    assert (len(prefill.seen), len(decode.seen)) == (1, 1)


@pytest.mark.anyio
async def test_engine_without_worker_info_is_used(tmp_path: Path) -> None:
    """A member that says nothing of itself (vLLM) serves as the source calls it."""
    worker = FakeWorker()
    worker.worker_info = False
    fields = {"role": "decode", "phase": None, "fingerprint": None}
    async with running_service(tmp_path, worker, member_fields=fields) as running:
        streamed = await running.stream(chat())

    assert streamed.ended


@pytest.mark.anyio
async def test_worker_that_is_not_ready_gets_nothing(tmp_path: Path) -> None:
    """Only members in phase `ready` get requests; a change of phase is enough."""
    loading, ready = FakeWorker(), FakeWorker()
    loading.phase = "loading"
    async with running_service(tmp_path, loading, ready) as running:
        await running.post(chat())
        await running.post(chat("another prompt"))
        loading.phase = "ready"
        running.set_members(loading)
        await eventually(lambda: len(running.service.pool.workers) == 1)
        await running.post(chat())

    assert (len(loading.seen), len(ready.seen)) == (1, 2)

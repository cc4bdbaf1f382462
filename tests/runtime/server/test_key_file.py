"""Keys in a file that changes while the worker runs."""

import logging
from pathlib import Path

import pytest

from steelyard_runtime.server.key_file import CHECK_SECONDS, KeyFile
from steelyard_runtime.testing.http_worker import Rig, running_worker

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time; a second later each time."""
        self.now += CHECK_SECONDS
        return self.now


def swapped(path: Path, text: str) -> None:
    """Change a file as the kubelet does: a new target behind a symbolic link, by rename."""
    target = path.with_name(f"target-{len(list(path.parent.iterdir()))}")
    target.write_text(text)
    link = path.with_name("new-link")
    link.symlink_to(target)
    link.rename(path)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """All keys of the file count, one a line, after a rename as after a write."""
    path = tmp_path / "key"
    swapped(path, "one\n")
    file = KeyFile(path, ("one",), Clock())

    assert file.keys() == ("one",)
    swapped(path, "two\n\n three \n")
    assert file.keys() == ("two", "three")
    path.write_text("four")
    assert file.keys() == ("four",)


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe", b"k" * (1024 * 1024 + 1)])
def test_a_damaged_file_keeps_the_last_keys(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing, empty or unreadable file changes nothing and is told once."""
    path = tmp_path / "key"
    path.write_text("good")
    file = KeyFile(path, ("good",), Clock())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        held = [file.keys() for _ in range(3)]

    assert held == [("good",)] * 3
    assert len(caplog.records) == 1
    path.write_text("newer")
    assert file.keys() == ("newer",)


async def test_open_connections_see_new_keys(model: Path, tmp_path: Path) -> None:
    """A rotated key counts from the next request on, on a connection that is open already."""
    path = tmp_path / "key"
    path.write_text("old")

    async def accepted(rig: Rig, key: str) -> bool:
        headers = {"authorization": f"Bearer {key}"}
        return (await rig.http.get("/v1/models", headers=headers)).status_code == 200

    async with running_worker(model, api_keys=("old",), api_key_file=path) as rig:
        before = [await accepted(rig, key) for key in ("old", "new")]
        swapped(path, "old\nnew\n")
        while not await accepted(rig, "new"):
            pass
        both = await accepted(rig, "old")
        swapped(path, "new\n")
        while await accepted(rig, "old"):
            pass
        after = await accepted(rig, "new")

    assert (before, both, after) == ([True, False], True, True)


async def test_with_a_key_only_probes_and_scrapers_are_open(model: Path) -> None:
    """Whatever is not listed as open wants the key, paths that there are not included."""
    open_paths = ["/health", "/ready", "/metrics", "/version", "/openapi.json"]
    guarded = ["/v1/models", "/v1/models/fake", "/tokenize", "/nothing", "//v1/models", "/docs"]
    async with running_worker(model, api_keys=("k",)) as rig:
        answers = [(await rig.http.get(path)).status_code for path in [*open_paths, *guarded]]
        posts = [
            (await rig.http.post(path, json={})).status_code
            for path in ("/v1/completions", "/detokenize", "/tokenize", "/reset_prefix_cache")
        ]

    assert answers == [200] * len(open_paths) + [401] * len(guarded)
    assert posts == [401] * 4

"""The cache that services share: what lies there is taken only if it is what the source lists."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.fetch.folder import Folder

WEIGHTS = "model-00001-of-00002.safetensors"
URIS = {"hub": "hf://org/name", "bucket": "s3://models/folder"}
Content = Callable[[Path], dict[str, bytes]]


@pytest.fixture(params=URIS)
def source(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """The URI of the model and the store behind it, for each scheme."""
    return URIS[request.param], request.getfixturevalue(request.param)


def entry(cache: Path) -> Path:
    """The one folder of a cache."""
    (found,) = cache.iterdir()
    return found


def overwrite(path: Path, content: bytes) -> None:
    """Put other content in a file's place, of the same age as the right one."""
    times = path.stat()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def by_content(path: Path, right: bytes) -> None:
    """The same size and age, another content."""
    overwrite(path, bytes(len(right)))


def by_link(path: Path, right: bytes) -> None:
    """A link to a file elsewhere that has the right content, for now."""
    elsewhere = path.parents[2] / "elsewhere"
    elsewhere.write_bytes(right)
    path.unlink()
    path.symlink_to(elsewhere)


def by_size(path: Path, right: bytes) -> None:
    """A file that is cut."""
    overwrite(path, right[:-1])


@pytest.mark.parametrize("poison", [by_content, by_link, by_size])
def test_a_poisoned_file_is_noticed_and_replaced(
    source: Any,
    fetch: Any,
    content: Content,
    tree: dict[str, bytes],
    tmp_path: Path,
    *,
    poison: Callable[[Path, bytes], None],
) -> None:
    """Before a second pod gets it; only what was wrong is fetched again."""
    uri, store = source
    cache = tmp_path / "cache"
    assert fetch(uri, "--to", tmp_path / "a", "--cache", cache).code == 0
    poison(entry(cache) / WEIGHTS, tree[WEIGHTS])
    store.ranges.clear()
    assert fetch(uri, "--to", tmp_path / "b", "--cache", cache).code == 0

    assert content(tmp_path / "b") == tree
    assert [name for name, _ in store.ranges] == [WEIGHTS]
    assert not (entry(cache) / WEIGHTS).is_symlink()


def test_what_a_cache_notes_is_not_believed(
    hub: Any, fetch: Any, content: Content, tree: dict[str, bytes], tmp_path: Path
) -> None:
    """Its list of files may have been written by whoever wrote the files."""
    cache = tmp_path / "cache"
    assert fetch("hf://org/name", "--to", tmp_path / "a", "--cache", cache).code == 0
    note = entry(cache) / ".steelyard/contents.json"
    noted = json.loads(note.read_bytes())
    noted["sizes_bytes"] = {"config.json": 5, "../../outside.json": 5}
    noted["digests"] = {}
    note.write_text(json.dumps(noted))
    overwrite(entry(cache) / "config.json", b"wrong")
    assert fetch("hf://org/name", "--to", tmp_path / "b", "--cache", cache).code == 0

    assert content(tmp_path / "b") == tree


@pytest.mark.parametrize("where", ["entry", "folder"])
def test_a_link_in_a_folders_place_leads_nowhere(
    hub: Any, fetch: Any, content: Content, tmp_path: Path, where: str
) -> None:
    """A fetch writes below the cache, also where somebody has put a link."""
    hub.files = {"config.json": b"{}", "sub/model.safetensors": b"weights"}
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    assert fetch("hf://org/name", "--to", tmp_path / "a", "--cache", cache).code == 0
    folder = entry(cache) if where == "entry" else entry(cache) / "sub"
    outside.mkdir()
    folder.rename(tmp_path / "away")
    folder.symlink_to(outside)
    assert fetch("hf://org/name", "--to", tmp_path / "b", "--cache", cache).code == 0

    assert content(tmp_path / "b") == hub.files
    assert list(outside.iterdir()) == []


def test_two_sources_of_one_name_share_nothing(
    hub: Any, fetch: Any, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is a part of where a download is kept, and so is every file's content."""
    cache = tmp_path / "cache"
    hub.files = {"config.json": b"{}", "model.safetensors": b"aaa"}
    assert fetch("hf://org/name", "--to", tmp_path / "a", "--cache", cache).code == 0
    hub.files = {"config.json": b"{}", "model.safetensors": b"bbb"}  # the same commit and sizes
    assert fetch("hf://org/name", "--to", tmp_path / "b", "--cache", cache).code == 0
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("127.0.0.1", "localhost"))
    assert fetch("hf://org/name", "--to", tmp_path / "c", "--cache", cache).code == 0

    assert content(tmp_path / "a")["model.safetensors"] == b"aaa"
    assert content(tmp_path / "b")["model.safetensors"] == b"bbb"
    assert len(list(cache.iterdir())) == 3


def test_files_without_a_digest_are_kept_by_the_way_they_came(
    bucket: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing proves them, so a service with a proxy of its own fills no other's cache."""
    bucket.parts = True
    cache = tmp_path / "cache"
    run = lambda to: fetch("s3://models/folder", "--to", tmp_path / to, "--cache", cache)  # noqa: E731
    assert run("a").code == run("b").code == 0
    once = len(bucket.ranges)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert run("c").code == 0

    assert len(bucket.ranges) == 2 * once
    assert len(list(cache.iterdir())) == 2


def test_a_file_without_a_digest_is_held_to_what_was_fetched(
    bucket: Any, fetch: Any, content: Content, tree: dict[str, bytes], tmp_path: Path
) -> None:
    """A disk that forgets, or somebody who changes the file alone, is noticed."""
    bucket.parts = True
    cache = tmp_path / "cache"
    assert fetch("s3://models/folder", "--to", tmp_path / "a", "--cache", cache).code == 0
    by_content(entry(cache) / WEIGHTS, tree[WEIGHTS])
    assert fetch("s3://models/folder", "--to", tmp_path / "b", "--cache", cache).code == 0

    assert content(tmp_path / "b") == tree


def test_a_pod_that_starts_again_proves_its_links(
    hub: Any, fetch: Any, content: Content, tree: dict[str, bytes], tmp_path: Path
) -> None:
    """Also while the hub is away: then it does not start with something else."""
    cache, uri = tmp_path / "cache", f"hf://org/name@{'c' * 40}"
    assert fetch(uri, "--to", tmp_path / "a", "--cache", cache).code == 0
    by_content(entry(cache) / WEIGHTS, tree[WEIGHTS])
    hub.refuse = (503, "")
    away = fetch(uri, "--to", tmp_path / "a", "--cache", cache)
    hub.refuse = None
    back = fetch(uri, "--to", tmp_path / "a", "--cache", cache)

    assert (away.code, back.code) == (1, 0)
    assert content(tmp_path / "a") == tree


def test_what_is_kept_is_read_only(hub: Any, fetch: Any, tree: Any, tmp_path: Path) -> None:
    """For whoever else has the cache mounted."""
    cache = tmp_path / "cache"
    assert fetch("hf://org/name", "--to", tmp_path / "a", "--cache", cache).code == 0

    assert {oct((entry(cache) / name).stat().st_mode & 0o777) for name in tree} == {"0o444"}


def test_a_fetch_into_the_cache_that_is_killed_goes_on(
    hub: Any, fetch: Any, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while files move in: what is there is proved, and only the rest is fetched."""
    put, cache = Folder._rename, tmp_path / "cache"

    def killed(self: Folder, fresh: Path, file: Any) -> None:
        if file.path == "config.json":
            raise KeyboardInterrupt
        put(self, fresh, file)

    monkeypatch.setattr(Folder, "_rename", killed)
    first = fetch("hf://org/name", "--to", tmp_path / "a", "--cache", cache)
    monkeypatch.setattr(Folder, "_rename", put)
    hub.ranges.clear()
    second = fetch("hf://org/name", "--to", tmp_path / "a", "--cache", cache)

    assert (first.code, second.code) == (130, 0)
    assert hub.ranges == []
    assert content(tmp_path / "a").keys() > {WEIGHTS, "config.json"}

"""`steelyard-runtime fetch`: what arrives, what is kept, and what is never left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.fetch import folder as folders
from steelyard_runtime.fetch.folder import Folder

WEIGHTS = "model-00001-of-00002.safetensors"
Content = Callable[[Path], dict[str, bytes]]
URIS = {"hub": "hf://org/name", "bucket": "s3://models/folder"}


@pytest.fixture(params=URIS)
def source(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """The URI of the model and the store behind it, for each scheme."""
    return URIS[request.param], request.getfixturevalue(request.param)


def test_a_folder_gets_what_a_model_needs(
    source: Any, fetch: Any, content: Content, tree: dict[str, bytes], tmp_path: Path
) -> None:
    """Weights once, in safetensors; no read-me and no other format."""
    ran = fetch(source[0], "--to", tmp_path / "models")

    assert (ran.code, ran.said) == (0, "")
    assert content(tmp_path / "models") == tree
    assert not list((tmp_path / "models/.steelyard").glob("*.part"))


@pytest.mark.parametrize("revision", ["", "@v1", "@" + "c" * 40])
def test_one_gguf_file_gets_its_own_name(
    hub: Any, fetch: Any, content: Content, tmp_path: Path, revision: str
) -> None:
    """The engine is told the folder and the last part of the URI."""
    hub.files["quantized/a.gguf"] = b"GGUF" * 1000
    ran = fetch(f"hf://org/name/quantized/a.gguf{revision}", "--to", tmp_path)

    assert ran.code == 0
    assert content(tmp_path) == {"a.gguf": b"GGUF" * 1000}


def test_one_gguf_file_of_a_bucket(
    bucket: Any, fetch: Any, content: Content, tmp_path: Path
) -> None:
    """A file is named by its whole path."""
    bucket.files["a.gguf"] = b"GGUF" * 1000
    ran = fetch("s3://models/folder/a.gguf", "--to", tmp_path / "to")

    assert ran.code == 0
    assert content(tmp_path / "to") == {"a.gguf": b"GGUF" * 1000}


def test_a_broken_download_goes_on_where_it_broke_off(
    source: Any, fetch: Any, content: Content, tree: dict[str, bytes], tmp_path: Path
) -> None:
    """No byte is fetched twice."""
    uri, store = source
    store.files = {name: tree[name] for name in ("config.json", WEIGHTS)}
    store.break_after_bytes = [1000, 5000]
    ran = fetch(uri, "--to", tmp_path / "to")

    assert ran.code == 0
    assert content(tmp_path / "to") == store.files
    assert store.downloads(WEIGHTS) == [0, 1000, 6000]


def test_a_fetch_that_is_there_asks_for_no_file(source: Any, fetch: Any, tmp_path: Path) -> None:
    """A container that starts again has nothing to do."""
    uri, store = source
    assert fetch(uri, "--to", tmp_path / "to").code == 0
    store.ranges.clear()
    again = fetch(uri, "--to", tmp_path / "to")

    assert (again.code, store.ranges) == (0, [])


def test_what_is_there_serves_while_the_source_is_away(
    hub: Any, fetch: Any, content: Content, tree: dict[str, bytes], tmp_path: Path
) -> None:
    """A pod that starts again on its node needs nobody else's server."""
    assert fetch("hf://org/name", "--to", tmp_path).code == 0
    hub.refuse = (503, "")
    again = fetch("hf://org/name", "--to", tmp_path)
    elsewhere = fetch("hf://org/name", "--to", tmp_path / "other")

    assert again.code == 0
    assert content(tmp_path) == tree
    assert elsewhere.code == 1
    assert "hf://org/name cannot be read" in elsewhere.said


def test_a_killed_fetch_leaves_no_model_and_goes_on(
    hub: Any, fetch: Any, content: Content, tree: dict[str, bytes], tmp_path: Path
) -> None:
    """`kill -9` midway: no file is in its place, and the next fetch needs only the rest."""
    hub.hold = threading.Event()
    hub.files = {"config.json": tree["config.json"], WEIGHTS: tree[WEIGHTS]}
    hub.break_after_bytes = [700_000]
    command = [sys.executable, "-m", "steelyard_runtime.cli", "fetch", "hf://org/name"]
    first = subprocess.Popen([*command, "--to", str(tmp_path)], stderr=subprocess.PIPE)
    assert first.stderr is not None
    assert hub.downloading.wait(30)
    hub.hold.set()
    for line in first.stderr:
        if b"fetch broke off" in line:
            break
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    first.stderr.close()
    left = content(tmp_path)
    hub.ranges.clear()
    second = fetch("hf://org/name", "--to", tmp_path)

    assert "config.json" not in left
    assert WEIGHTS not in left
    assert second.code == 0
    assert content(tmp_path) == hub.files
    assert hub.downloads(WEIGHTS) == [700_000]


def test_a_fetch_killed_while_files_move_in_goes_on(
    hub: Any, fetch: Any, tree: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file without which a folder is no model comes last; what moved is not fetched again."""
    put = Folder._rename

    def killed(self: Folder, fresh: Path, file: Any) -> None:
        if file.path == "config.json":
            raise KeyboardInterrupt
        put(self, fresh, file)

    monkeypatch.setattr(Folder, "_rename", killed)
    first = fetch("hf://org/name", "--to", tmp_path)
    left = (tmp_path / WEIGHTS).exists(), (tmp_path / "config.json").exists()
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.ranges.clear()
    second = fetch("hf://org/name", "--to", tmp_path)

    assert (first.code, left) == (130, (True, False))
    assert (second.code, hub.ranges) == (0, [])
    assert (tmp_path / "config.json").read_bytes() == tree["config.json"]


def test_another_version_replaces_the_whole_folder(
    bucket: Any, fetch: Any, content: Content, tmp_path: Path
) -> None:
    """No file of the old version stays, also not one of the same size."""
    to = tmp_path / "to"
    bucket.files = {"config.json": b"{1}", "old.safetensors": b"old", "same.safetensors": b"aaa"}
    assert fetch("s3://models/folder", "--to", to).code == 0
    bucket.files = {"config.json": b"{2}", "new.safetensors": b"new", "same.safetensors": b"bbb"}
    assert fetch("s3://models/folder", "--to", to).code == 0

    assert content(to) == bucket.files


def test_a_file_that_nothing_vouches_for_is_fetched(
    hub: Any, fetch: Any, content: Content, tree: dict[str, bytes], tmp_path: Path
) -> None:
    """The right name and size are not enough."""
    (tmp_path / WEIGHTS).write_bytes(b"x" * len(tree[WEIGHTS]))
    assert fetch("hf://org/name", "--to", tmp_path).code == 0

    assert content(tmp_path) == tree


def test_pods_of_a_node_share_a_cache(
    source: Any, fetch: Any, content: Content, tree: dict[str, bytes], tmp_path: Path
) -> None:
    """The second pod gets links to what the first one fetched."""
    uri, store = source
    cache = tmp_path / "cache"
    assert fetch(uri, "--to", tmp_path / "a", "--cache", cache).code == 0
    store.ranges.clear()
    assert fetch(uri, "--to", tmp_path / "b", "--cache", cache).code == 0

    assert content(tmp_path / "a") == content(tmp_path / "b") == tree
    assert (tmp_path / "b/config.json").resolve().is_relative_to(cache)
    assert store.ranges == []


def test_two_pods_at_once_fetch_once(
    hub: Any, tree: dict[str, bytes], content: Content, tmp_path: Path
) -> None:
    """The second one waits for the first and says so."""
    hub.hold = threading.Event()
    command = [sys.executable, "-m", "steelyard_runtime.cli", "fetch", "hf://org/name"]
    command += ["--cache", str(tmp_path / "cache")]
    pods = [
        subprocess.Popen([*command, "--to", str(tmp_path / name)], stderr=subprocess.PIPE)
        for name in ("a", "b")
    ]
    waiting = threading.Event()

    def follow(pod: "subprocess.Popen[bytes]") -> None:
        assert pod.stderr is not None
        for line in pod.stderr:
            if b"another process fetches into it" in line:
                waiting.set()

    readers = [threading.Thread(target=follow, args=(pod,)) for pod in pods]
    for reader in readers:
        reader.start()
    assert waiting.wait(30)
    hub.hold.set()
    codes = [pod.wait(30) for pod in pods]
    for reader in readers:
        reader.join()
    for pod in pods:
        assert pod.stderr is not None
        pod.stderr.close()

    assert codes == [0, 0]
    assert content(tmp_path / "a") == content(tmp_path / "b") == tree
    assert sorted(name for name, _ in hub.ranges) == sorted(tree)


def test_progress_is_told(
    hub: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Bytes, share and speed are in the log."""
    monkeypatch.setattr("steelyard_runtime.fetch.progress.INTERVAL_SECONDS", 0.0)
    caplog.set_level("INFO")
    assert fetch("hf://org/name", "--to", tmp_path).code == 0

    last = [one.fields for one in caplog.records if one.message == "fetching"][-1]
    assert last["percent"] == 100
    assert last["fetched_bytes"] == last["total_bytes"]


def test_a_full_disk_is_told_before_it_is_full(
    hub: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fetched where it cannot fit; more space may come, so it may pass."""

    class Usage:
        free = 1024

    monkeypatch.setattr(folders.shutil, "disk_usage", lambda root: Usage)
    ran = fetch("hf://org/name", "--to", tmp_path)

    assert ran.code == 1
    assert f"GiB more in '{tmp_path}', where 0.00 GiB are free" in ran.said
    assert hub.ranges == []

"""Whatever is wrong is told in one sentence that names it, without a traceback."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.fetch import folder as folders
from steelyard_runtime.fetch import telling


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hf://org", "must have the form hf://org/name[/file.gguf][@revision], got 'hf://org'"),
        ("hf://org/a b", "must have the form hf://org/name"),
        ("s3://models", "must have the form s3://bucket/folder or s3://bucket/path/file.gguf"),
        ("gs://bucket/path", "must begin with hf:// or s3://, got 'gs://bucket/path'"),
        ("models", "must begin with hf:// or s3://, got 'models'"),
    ],
)
def test_a_wrong_uri(fetch: Any, hub: Any, tmp_path: Path, uri: str, said: str) -> None:
    """The form that is allowed is told."""
    ran = fetch(uri, "--to", tmp_path)

    assert ran.code == 2
    assert said in ran.said
    assert ran.said.count("\n") == 1


def test_a_pods_status_gets_the_sentence(
    hub: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container it is also written where Kubernetes looks for it."""
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setattr(telling, "TERMINATION_LOG", log)
    ran = fetch("hf://org/name@v9", "--to", tmp_path / "to")

    assert log.read_text() in ran.said
    assert "has no revision 'v9'" in log.read_text()


def test_a_missing_flag(fetch: Any) -> None:
    """Where to is always given."""
    ran = fetch("hf://org/name")

    assert ran.code == 2
    assert "required: --to" in ran.said


@pytest.mark.parametrize(
    ("uri", "refuse", "code", "said"),
    [
        ("hf://org/other", None, 2, "org/other at 127.0.0.1:{port} is not there (404), or it is"),
        ("hf://org/name@v9", None, 2, "has no revision 'v9'; give a branch, a tag or a commit"),
        ("hf://org/name/b.gguf", None, 2, "has no file 'b.gguf'; it has: a.gguf"),
        ("hf://org/name", (401, "RepoNotFound"), 2, "is not there (401), or it is private: set"),
        ("hf://org/name", (403, "GatedRepo"), 2, "may not be read (403): its terms must be"),
        ("hf://org/name", (403, ""), 2, "may not be read (403)"),
        ("hf://org/name", (400, ""), 2, "cannot be read: 127.0.0.1:{port} answered 400"),
        ("hf://org/name", (500, ""), 1, "hf://org/name cannot be read: 127.0.0.1:{port}: "),
    ],
)
def test_what_a_hub_refuses(
    hub: Any, fetch: Any, tmp_path: Path, *, uri: str, refuse: Any, code: int, said: str
) -> None:
    """Each status has its sentence."""
    hub.files["a.gguf"] = b"GGUF"
    hub.refuse = refuse
    ran = fetch(uri, "--to", tmp_path)

    assert ran.code == code
    assert said.format(port=hub.url.rpartition(":")[2]) in ran.said
    assert ran.said.count("\n") == 1


@pytest.mark.parametrize(
    ("uri", "refuse", "code", "said"),
    [
        ("s3://other/folder", None, 2, "there is no bucket 'other' (404)"),
        ("s3://models/none", None, 2, "the bucket 'models' holds nothing below 'none/'"),
        ("s3://models/none/a.gguf", None, 2, "the bucket 'models' has no file 'none/a.gguf' (404)"),
        ("s3://models/folder", (403, "AccessDenied"), 2, "may not be read (403 AccessDenied): the"),
        ("s3://models/folder", (400, "Odd"), 2, "s3://models/folder cannot be read: 400 Odd"),
        ("s3://models/folder", (503, "SlowDown"), 1, "s3://models/folder: 503 SlowDown"),
    ],
)
def test_what_a_bucket_refuses(
    bucket: Any,
    fetch: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    uri: str,
    refuse: Any,
    code: int,
    said: str,
) -> None:
    """Each status has its sentence."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own attempts
    bucket.refuse = refuse
    ran = fetch(uri, "--to", tmp_path / "to")

    assert ran.code == code
    assert said in ran.said
    assert ran.said.count("\n") == 1


def test_a_token_opens_a_private_model(
    hub: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HF_TOKEN is sent, and its absence is told."""
    hub.private = True
    without = fetch("hf://org/name", "--to", tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with_token = fetch("hf://org/name", "--to", tmp_path)

    assert "it is private: set HF_TOKEN" in without.said
    assert (without.code, with_token.code) == (2, 0)


def test_a_credentials_file_opens_a_private_bucket(
    bucket: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_SHARED_CREDENTIALS_FILE is read; without credentials the bucket is asked unsigned."""
    bucket.private = True
    with_file = fetch("s3://models/folder", "--to", tmp_path / "a")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    without = fetch("s3://models/folder", "--to", tmp_path / "b")

    assert (with_file.code, without.code) == (0, 2)
    assert "may not be read (403 AccessDenied)" in without.said


@pytest.mark.parametrize(
    ("fixture", "uri"), [("hub", "hf://org/name"), ("bucket", "s3://models/folder")]
)
def test_a_checksum_that_does_not_match(
    request: pytest.FixtureRequest,
    fetch: Any,
    content: Any,
    tmp_path: Path,
    *,
    fixture: str,
    uri: str,
) -> None:
    """It is tried once more; then nothing is left that could pass as the file."""
    store = request.getfixturevalue(fixture)
    store.files = {"model.safetensors": b"weights"}
    store.corrupt = True
    ran = fetch(uri, "--to", tmp_path / "to")

    assert ran.code == 2
    assert "does not match after 2 downloads" in ran.said
    assert content(tmp_path / "to") == {}
    assert not list((tmp_path / "to/.steelyard").glob("*.part"))


def test_a_connection_that_never_holds(hub: Any, fetch: Any, tmp_path: Path) -> None:
    """After some attempts without a byte it is told which file and why."""
    hub.files = {name: hub.files[name] for name in ("config.json", "tokenizer.json")}
    hub.files["model.safetensors"] = b"weights"
    hub.break_after_bytes = [0] * 100
    ran = fetch("hf://org/name", "--to", tmp_path)

    assert ran.code == 1
    assert "cannot be read, 6 attempts failed, the last one with: 127.0.0.1" in ran.said


def test_no_weights(hub: Any, fetch: Any, tmp_path: Path) -> None:
    """What there is instead is named."""
    hub.files = {"config.json": b"{}", "a.gguf": b"GGUF", "pytorch_model.bin": b""}
    ran = fetch("hf://org/name", "--to", tmp_path)

    assert ran.code == 2
    assert "holds no .safetensors file; name one of its GGUF files: a.gguf" in ran.said


@pytest.mark.parametrize("path", ["../a.safetensors", "/a.safetensors", "b/../../a.safetensors"])
def test_a_path_that_leads_out(bucket: Any, fetch: Any, tmp_path: Path, path: str) -> None:
    """A source writes nowhere but into the folder."""
    bucket.files = {"config.json": b"{}", path: b"weights"}
    ran = fetch("s3://models/folder", "--to", tmp_path / "to")

    assert ran.code == 2
    assert "which is not allowed" in ran.said
    assert not (tmp_path / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.ENOSPC, 1, "cannot be written: no space is left"),
        (errno.EROFS, 2, "cannot be written: Read-only file system"),
    ],
)
def test_a_folder_that_cannot_be_written(
    hub: Any,
    fetch: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    number: int,
    code: int,
    said: str,
) -> None:
    """The system's reason is told."""

    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(folders, "_to_disk", fail)
    ran = fetch("hf://org/name", "--to", tmp_path)

    assert ran.code == code
    assert said in ran.said

"""A source sends no more than it said, in bounded time, to names that are files' everywhere."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.fetch import bucket as buckets
from steelyard_runtime.fetch import hub as hubs
from steelyard_runtime.fetch import listing as listings

Content = Callable[[Path], dict[str, bytes]]
MEBIBYTE = 1024 * 1024
SOURCES = [("hub", "hf://org/name"), ("bucket", "s3://models/folder")]
BOTH = pytest.mark.parametrize(("fixture", "uri"), SOURCES, ids=["hub", "bucket"])


def refused(ran: Any, to: Path, *, said: str, code: int = 2) -> None:
    """One sentence, and nothing left that could be taken for a file."""
    assert said in ran.said
    assert ran.code == code
    assert ran.said.count("\n") == 1
    left = [path for path in to.rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {"lock", "contents.json"}


@BOTH
def test_a_file_larger_than_listed_is_cut_at_once(
    request: pytest.FixtureRequest, fetch: Any, tmp_path: Path, fixture: str, uri: str
) -> None:
    """Not when its end is reached, and not as the file that was listed."""
    store = request.getfixturevalue(fixture)
    store.files = {"model.safetensors": b"ab", "a.json": b"", "b.json": b""}
    store.excess_bytes = 64 * MEBIBYTE
    ran = fetch(uri, "--to", tmp_path / "to")

    refused(ran, tmp_path / "to", said="'model.safetensors' is larger than the 2 bytes that the")


@BOTH
def test_a_listing_has_a_size(
    request: pytest.FixtureRequest,
    fetch: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fixture: str,
    uri: str,
) -> None:
    """Endless names fill no memory."""
    store = request.getfixturevalue(fixture)
    store.files |= {f"{number}{'a' * 200}.json": b"" for number in range(1000)}
    monkeypatch.setattr(hubs, "LISTED_BYTES", 50_000)
    monkeypatch.setattr(buckets, "PAGE_BYTES", 50_000)
    ran = fetch(uri, "--to", tmp_path / "to")

    refused(ran, tmp_path / "to", said=" MiB")


def test_a_listing_has_an_end(
    bucket: Any, fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that name no file and always a next one."""
    bucket.pages_without_end = True
    monkeypatch.setattr(buckets, "PAGES", 5)
    ran = fetch("s3://models/folder", "--to", tmp_path / "to")

    refused(ran, tmp_path / "to", said="has a listing without an end")


@BOTH
def test_a_listing_has_a_number_of_files(
    request: pytest.FixtureRequest,
    fetch: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fixture: str,
    uri: str,
) -> None:
    """Those that nobody wants count, too."""
    store = request.getfixturevalue(fixture)
    store.files |= {f"{number}.bin": b"" for number in range(50)}
    monkeypatch.setattr(listings, "LISTED_FILES", 40)
    ran = fetch(uri, "--to", tmp_path / "to")

    refused(ran, tmp_path / "to", said=f"{uri} lists more than 40 files, which is not a model")


@pytest.mark.parametrize(
    ("flags", "sizes", "said"),
    [
        (["--max-files", 3], {}, "has 4 files; at most 3 are fetched (--max-files)"),
        (
            ["--max-gib", 1],
            {"tokenizer.json": 2**31},
            "has 2.00 GiB; at most 1 GiB are fetched (--",
        ),
        ([], {"tokenizer.json": 2**62}, "at most 4096 GiB are fetched"),
        ([], {"tokenizer.json": None}, "does not say how large 'tokenizer.json' is"),
        ([], {"tokenizer.json": -5}, "does not say how large 'tokenizer.json' is"),
    ],
)
def test_a_checkpoint_has_a_size(
    hub: Any, fetch: Any, tmp_path: Path, *, flags: list[Any], sizes: Any, said: str
) -> None:
    """What the source says is refused before a byte of it is fetched."""
    hub.sizes = sizes
    ran = fetch("hf://org/name", "--to", tmp_path / "to", *flags)

    refused(ran, tmp_path / "to", said=said)
    assert hub.ranges == []


@pytest.mark.parametrize("number", ["0", "-1", "many", "1" * 30, "٣"])
def test_a_bound_is_a_number(fetch: Any, tmp_path: Path, number: str) -> None:
    """The flag is named."""
    ran = fetch("hf://org/name", "--to", tmp_path, f"--max-files={number}")

    assert ran.code == 2
    assert "--max-files: must be a number from 1 on" in ran.said


NAMES = {
    "up": "../a.safetensors",
    "up within": "b/../../a.safetensors",
    "here": "./a.safetensors",
    "absolute": "/a.safetensors",
    "twice": "b//a.safetensors",
    "NUL": "a\0b.safetensors",
    "line": "a\nb.safetensors",
    "escape": "a\x1b[2Jb.safetensors",
    "direction": "a\u202eb.safetensors",
    "long": "a" * 256 + ".safetensors",
    "letters of many bytes": "ä" * 130 + ".safetensors",
    "deep": "a/" * 600 + "a.safetensors",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_that_no_file_may_have(hub: Any, fetch: Any, tmp_path: Path, name: str) -> None:
    """One sentence without the name's own control characters, and nothing outside the folder."""
    hub.files[name] = b"weights"
    ran = fetch("hf://org/name", "--to", tmp_path / "to")

    refused(ran, tmp_path / "to", said="which is not allowed")
    assert ran.said.rstrip("\n").isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("Model.safetensors", "model.safetensors"), "has two files that some file systems take"),
        (
            ("mod\u00e8le.json", "mode\u0300le.json"),
            "has two files that some file systems take for",
        ),
        (
            ("a.json", "A.JSON/b.json"),
            "has 'a.json' as a file and, in 'A.JSON/b.json', as a folder",
        ),
    ],
)
def test_names_that_are_one_on_some_file_systems(
    hub: Any, fetch: Any, tmp_path: Path, names: tuple[str, str], said: str
) -> None:
    """One would overwrite the other, and which one is chance."""
    hub.files |= dict.fromkeys(names, b"{}")
    hub.files = {n: c for n, c in hub.files.items() if n in (*names, "config.json") or "of" in n}
    ran = fetch("hf://org/name", "--to", tmp_path / "to")

    refused(ran, tmp_path / "to", said=said)


SHA = "c" * 40
LISTINGS = {
    "nothing": b"",
    "no JSON": b"<html>",
    "deep": b'{"sha": "x", "siblings": ' + b"[" * 200_000,
    "deep elsewhere": b'{"other": ' + b'{"a":' * 200_000,
    "a list": b"[]",
    "no commit": b'{"siblings": []}',
    "another commit": json.dumps({"sha": "../../x", "siblings": []}).encode(),
    "a number": json.dumps({"sha": 1, "siblings": []}).encode(),
    "files as text": json.dumps({"sha": SHA, "siblings": "all"}).encode(),
    "a file as number": json.dumps({"sha": SHA, "siblings": [1]}).encode(),
    "a size as text": json.dumps(
        {"sha": SHA, "siblings": [{"rfilename": "a", "size": "1"}]}
    ).encode(),
    "no UTF-8": b'{"sha": "\xff"}',
    "half a letter": json.dumps({"sha": SHA, "siblings": [{"rfilename": "\ud800"}]}).encode(),
}


@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS)
def test_a_damaged_listing(hub: Any, fetch: Any, tmp_path: Path, listing: bytes) -> None:
    """Whatever a hub answers is a sentence."""
    hub.listing = listing
    ran = fetch("hf://org/name", "--to", tmp_path / "to")

    refused(ran, tmp_path / "to", said="org/name at 127.0.0.1")


ENTITIES = b"".join(b'<!ENTITY e%d "%s">' % (n, b"&e%d;" % (n - 1) * 10) for n in range(1, 12))
PAGES = {
    "no XML": b"{}",
    "entities in entities": b'<!DOCTYPE x [<!ENTITY e0 "aaaa">' + ENTITIES + b"]><x>&e11;</x>",
    "a size as text": b"<L><Contents><Key>folder/a</Key><Size>b</Size></Contents></L>",
    "no size": b"<L><Contents><Key>folder/a.json</Key></Contents></L>",
}


@pytest.mark.parametrize("listing", PAGES.values(), ids=PAGES)
def test_a_damaged_listing_of_a_bucket(
    bucket: Any,
    fetch: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listing: bytes,
) -> None:
    """Whatever a bucket answers is a sentence."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own attempts
    bucket.listing = listing
    ran = fetch("s3://models/folder", "--to", tmp_path / "to")

    refused(ran, tmp_path / "to", said="steelyard-runtime: fetch: ", code=ran.code)
    assert ran.code in (1, 2)


def test_a_compressed_answer_is_not_unpacked(hub: Any, fetch: Any, tmp_path: Path) -> None:
    """It was asked for none, and how large it becomes is not known."""
    hub.encoding = "gzip"
    ran = fetch("hf://org/name", "--to", tmp_path / "to")

    refused(ran, tmp_path / "to", said="answers with the encoding 'gzip', though it was asked for")


def test_redirects_have_an_end(hub: Any, fetch: Any, tmp_path: Path) -> None:
    """A hub that leads in circles is given up."""
    hub.redirect = "/org/name/resolve/again"
    ran = fetch("hf://org/name", "--to", tmp_path / "to")

    assert ran.code == 1
    assert "6 attempts failed" in ran.said
    assert ran.said.count("\n") == 1


SLOW = """
import sys
from steelyard_runtime.fetch import stalls
stalls.LISTING_SECONDS, stalls.WINDOW_SECONDS, stalls.POLL_SECONDS = {listing}, {window}, 0.05
from steelyard_runtime.cli import main
sys.exit(main(["fetch", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("listing", "window", "said"),
    [
        (0.0, 60, "hf://org/name did not say within 0 s which files it has"),
        (60, 1.0, " bytes in 1 s; at least 1048576 are needed"),
    ],
    ids=["listing", "file"],
)
def test_a_source_that_keeps_waiting_is_given_up(
    hub: Any, tmp_path: Path, listing: float, window: float, said: str
) -> None:
    """Whatever the library waits for; what came stays for the next attempt."""
    hub.hold = threading.Event()
    script = SLOW.format(listing=listing, window=window)
    command = [sys.executable, "-c", script, "hf://org/name", "--to", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 1
    assert said in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr

"""The membership file: the contract's form, and never half written."""

import json
from pathlib import Path

from steelyard_operator.local.membership import Member, MembershipFile, render

PREFILL = Member("s-0", "http://127.0.0.1:8000", "prefill", "ready", "abc")
DECODE = Member("s-1", "http://127.0.0.1:8001", "decode", "draining", "")


def test_the_form_is_the_contracts() -> None:
    """Workers stand in the order of their ids; an unknown fingerprint is left out."""
    assert json.loads(render([DECODE, PREFILL])) == {
        "version": 1,
        "workers": [
            {
                "id": "s-0",
                "url": "http://127.0.0.1:8000",
                "role": "prefill",
                "phase": "ready",
                "fingerprint": "abc",
            },
            {"id": "s-1", "url": "http://127.0.0.1:8001", "role": "decode", "phase": "draining"},
        ],
    }


def test_the_file_is_there_before_the_first_worker(tmp_path: Path) -> None:
    """A router that starts first finds an empty list."""
    file = MembershipFile(tmp_path / "members.json")

    assert json.loads(file.path.read_text()) == {"version": 1, "workers": []}


def test_an_open_reader_keeps_the_old_content(tmp_path: Path) -> None:
    """The file is replaced, not rewritten: a reader sees the old list or the new one, whole."""
    file = MembershipFile(tmp_path / "members.json")
    with file.path.open() as reader:
        file.write([PREFILL])

        assert json.load(reader)["workers"] == []
    assert len(json.loads(file.path.read_text())["workers"]) == 1


def test_an_unchanged_list_is_not_written(tmp_path: Path) -> None:
    """A watcher is woken only by a change."""
    file = MembershipFile(tmp_path / "members.json")
    file.write([PREFILL])
    before = file.path.stat().st_ino
    file.write([PREFILL])

    assert file.path.stat().st_ino == before

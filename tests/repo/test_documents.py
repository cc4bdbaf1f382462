"""What the documents promise is there: commands, links, and nothing of one machine."""

import argparse
import html
import re
import subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from steelyard_operator.cli import parser
from steelyard_operator.local.answer import Answer
from steelyard_operator.local.cost import Price
from steelyard_operator.local.observing import RouterView
from steelyard_operator.local.report import as_lines

ROOT = Path(__file__).parents[2]
# CI may check out as another user, which git refuses to read without being told.
LIST = ["git", "-c", "safe.directory=*", "ls-files"]
TRACKED = subprocess.run(LIST, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
DOCUMENTS = [name for name in TRACKED if name.endswith(".md")]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

# Hosts that an address in a tracked file may name: this machine and placeholders, and where a
# specification or a licence is cited from. Never a registry.
HOSTS = re.compile(
    r"(127\.0\.0\.1|0\.0\.0\.0|10\.[0-9.]+|\[.*\]|localhost|[a-z]+[0-9]?|([a-z]+\.)*example(\.[a-z]+)?"
    r"|([a-z0-9-]+\.)+svc\.cluster\.local|\{.*|\$.*|[A-Z_]+|www\.apache\.org|github\.com|keepachangelog\.com|semver\.org|www\.w3\.org|json-schema\.org)(:.*)?"
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_commands_exist(name: str) -> None:
    """Every `make TARGET` in a document is a target of the Makefile."""
    named = set(
        re.findall(r"`make ([a-z0-9-]+)|^ *\$? *make ([a-z0-9-]+)", _read(name), re.MULTILINE)
    )

    assert {target for pair in named for target in pair if target} - TARGETS == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    """A relative link in a document is a file of the repository."""
    links = [link for link in re.findall(r"\]\(([^)#]+)", _read(name)) if "://" not in link]

    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


def test_every_target_has_a_help_line() -> None:
    """`make help` lists all targets."""
    shown = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert shown == TARGETS


def test_ci_runs_the_readmes_test_command() -> None:
    """CI runs what a reader runs, and around it only what finds or prepares programs."""
    script, readme = _read(".ci/run"), _read("README.md")
    lines = [line for line in script.splitlines() if line and line[0] != "#"]
    preparing = ("KUBE_ASSETS", "shared/kube", "e2e/build_inputs.sh", "prom", "Chromium", "fi")
    commands = [line for line in lines if not any(part in line for part in preparing)]

    ours = ["make check", "make sbom audit"]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', *ours]
    assert "make e2e" in script
    for command in (*ours, "make e2e"):
        assert f"$ {command}" in readme


def test_the_recorded_demo_shows_what_is_printed_today() -> None:
    """The picture has every line that the report has now; `docs/record_demo.py` makes it anew."""
    answer = Answer("text", 0.1, 0.2, 0.3, prompt_tokens=70, completion_tokens=9)
    router = RouterView(frozenset(), "smollm2-0", "smollm2-1", "remote")
    names = [line.split()[0] for line in as_lines(answer, Price(Decimal(1), "USD"), router)]
    picture = html.unescape(re.sub(r"<[^>]*>", "", _read("docs/demo.svg"))).replace("\xa0", " ")

    assert "$ make demo" in picture
    assert [name for name in names if f"{name} " not in picture] == []
    assert "prefill on smollm2-0, decode on smollm2-1" in picture


def test_no_file_names_a_host_on_the_net() -> None:
    """Where packages and models come from is the reader's configuration, not ours."""
    address = re.compile(r"https?://([^/\s\"'`)>\\,;|]+)")
    found = {
        (name, host)
        for name in TRACKED
        for host in address.findall(_read(name))
        if not HOSTS.fullmatch(host)
    }

    assert found == set()


def test_no_file_names_a_path_of_one_machine() -> None:
    """A clone works anywhere."""
    paths = re.compile(r"(?<![\w.])/(work|root|home|opt)/[a-z]")

    assert [name for name in TRACKED if paths.search(_read(name))] == []


def _read(name: str) -> str:
    try:
        return (ROOT / name).read_text()
    except (UnicodeDecodeError, FileNotFoundError):  # Binary, or removed in the working tree.
        return ""


def test_the_readme_lists_the_flags_of_up() -> None:
    """A flag of `steelyard up` is in the README, and the other way round."""
    up = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    flags = {option for a in up.choices["up"]._actions for option in a.option_strings}

    assert set(re.findall(r"^\| `(--[a-z-]+)", _read("README.md"), re.MULTILINE)) == (
        flags - {"-h", "--help"}
    )


@pytest.mark.parametrize("package", ["operator/steelyard_operator", "runtime/steelyard_runtime"])
def test_the_map_names_every_package(package: str) -> None:
    """A new folder gets a line in CONTRIBUTING.md."""
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}

    assert [name for name in folders if f"  {name}/" not in _read("CONTRIBUTING.md")] == []


def test_the_threat_model_names_tests_that_are_there() -> None:
    """Each border of docs/security.md names files of tests/, the later ones beside the first."""
    rows = [line for line in _read("docs/security.md").splitlines() if line.count("|") == 4]
    folder, named = "", 0
    for cell in (row.split("|")[3] for row in rows):
        for name in re.findall(r"`([\w/]+\.py)`", cell):
            folder = name.rpartition("/")[0] or folder
            file = ROOT / "tests" / folder / name.rpartition("/")[2]
            assert file.is_file(), f"docs/security.md: {file.relative_to(ROOT)} is not there"
            named += 1
    assert named > 20

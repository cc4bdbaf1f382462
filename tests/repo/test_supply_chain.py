"""What images are made of is pinned, has hashes, and may be shipped."""

import http.server
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "supply" / "locks"
IMAGES = {
    "operator": ("operator",),
    "router": ("router",),
    "worker-cpu": ("runtime", "sources"),
    "worker-cuda": ("runtime", "sources", "nixl"),
}


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "supply" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


write_locks, write_sbom, audit = map(_script, ("write_locks", "write_sbom", "audit"))


def _locked(image: str) -> dict[str, str]:
    files = [LOCKS / f"{image}.txt"]
    if image == "worker-cpu":
        files.append(LOCKS / "torch-cpu.txt")
    pinned: dict[str, str] = {}
    for file in files:
        pinned |= write_sbom.pins(file.read_text())
    return pinned


def _needed(requirements: list[str]) -> set[str]:
    """The names of all packages that requirements need on this machine, directly or not."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        one = waiting.pop()
        key = (write_sbom.normal(one.name), frozenset(one.extras))
        if key in seen:
            continue
        seen.add(key)
        for text in importlib.metadata.requires(one.name) or ():
            child = Requirement(text)
            extras = [{"extra": extra} for extra in one.extras] or [{"extra": ""}]
            if child.marker is None or any(child.marker.evaluate(extra) for extra in extras):
                waiting.append(child)
    return {name for name, _ in seen}


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_has_all_that_its_image_needs(image: str) -> None:
    """Whatever the extras need, in the version that the tests run with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in IMAGES[image]:
        wanted += project["optional-dependencies"][extra]
    wanted += [
        text
        for name in [text for text in wanted if text.startswith("steelyard[")]
        for text in project["optional-dependencies"][Requirement(name).extras.pop()]
    ]
    needed = _needed([text for text in wanted if not text.startswith("steelyard[")])
    locked = _locked(image)

    assert needed - set(locked) == set(), "run `make locks`"
    constraints = write_sbom.pins((ROOT / "constraints-cpu.txt").read_text())
    pinned_here = {name: version for name, version in locked.items() if name in constraints}
    assert pinned_here == {name: constraints[name] for name in pinned_here}, "run `make locks`"


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.txt")), ids=lambda lock: lock.stem)
def test_each_package_of_a_lock_has_hashes(lock: Path) -> None:
    """No file is installed whose content is not known."""
    packages = re.split(r"\n(?=[^\s#])", lock.read_text())[1:]
    assert packages
    for package in packages:
        assert "==" in package.splitlines()[0]
        assert "--hash=sha256:" in package, package.splitlines()[0]


@pytest.mark.parametrize("dockerfile", ["operator/Dockerfile", "runtime/Dockerfile"])
def test_images_install_from_locks_alone(dockerfile: str) -> None:
    """Every pip command either reads a lock or handles our own wheel, without its dependencies."""
    text = (ROOT / dockerfile).read_text().replace("\\\n", " ")
    commands = re.findall(r"[^;&\n]*bin/pip (?:install|wheel)[^;&\n]*", text)
    assert commands
    for command in commands:
        locked = "--requirement locks/" in command
        assert locked or "PIP_REQUIRE_HASHES=0" in command, command
    assert text.count("PIP_REQUIRE_HASHES=1 PIP_NO_DEPS=1") >= 1


def test_no_image_has_a_floating_tag() -> None:
    """Base images have the tags of supply/base-images.mk, and `latest` is nowhere."""
    tags = dict(
        re.findall(
            r"^(\w+) \?= ([^@\s]+)", (ROOT / "supply/base-images.mk").read_text(), re.MULTILINE
        )
    )
    for file in ("operator/Dockerfile", "runtime/Dockerfile"):
        given = re.findall(r"^ARG (\w*BASE)=(\S+)", (ROOT / file).read_text(), re.MULTILINE)
        assert given
        assert {name: tags[name] for name, _ in given} == dict(given)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    for name in listed.stdout.decode().splitlines():
        file = ROOT / name
        if file.suffix in (".yaml", ".py", ".mk", ".sh") or file.name in ("Dockerfile", "Makefile"):
            floating = ":" + "latest"
            assert floating not in file.read_text(), name


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index with two CPU builds of torch, one of them of another version."""
    page = (
        f'<a href="/whl/torch-2.13.0%2Bcpu-cp313-cp313-linux_x86_64.whl#sha256={"a" * 64}">x</a>'
        f'<a href="/whl/torch-2.13.0-cp313-cp313-linux_x86_64.whl#sha256={"b" * 64}">x</a>'
        f'<a href="/whl/torch-2.12.0%2Bcpu-cp313-cp313-linux_x86_64.whl#sha256={"c" * 64}">x</a>'
    ).encode()

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/whl/cpu/torch/" else 404)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/whl/cpu"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_lock_admits_the_cpu_builds_of_torch(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the index and of a folder, of the pinned version alone, beside PyPI's files."""
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").write_bytes(b"a wheel")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    tqdm = f"tqdm==1 \\\n    --hash=sha256:{'d' * 64}\n"
    lock = f"{tqdm}torch==2.13.0 \\\n    --hash=sha256:{'e' * 64}\n"

    others, torch = write_locks.without(lock, "torch")
    admitted = write_locks.with_hashes(torch, write_locks.cpu_hashes(torch, index))

    assert others == tqdm
    hashes = re.findall(r"sha256:(\w{64})", admitted)
    assert len(hashes) == 3
    assert {"a" * 64, "e" * 64} < set(hashes)
    assert {"b" * 64, "c" * 64}.isdisjoint(hashes)


def _component(name: str, **licence: Any) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "bom-ref": name, "licenses": [licence]}


def test_a_licence_that_is_not_admitted_is_told() -> None:
    """One sentence names package and licence; each part of an expression counts."""
    assert not write_sbom.refusals(_component("a", license={"id": "MIT"}))
    assert not write_sbom.refusals(_component("a", expression="MIT AND (Apache-2.0 OR 0BSD)"))
    refused = write_sbom.refusals(_component("a", expression="MIT AND GPL-3.0-only"))
    assert len(refused) == 1
    assert "a 1.0 has the licence 'GPL-3.0-only'" in refused[0]


def test_an_image_is_described_by_its_lock() -> None:
    """Other packages of the environment are left out, missing ones are named all the same."""
    whole = {
        "components": [_component("Rich_Text", license={"id": "MIT"}), _component("other")],
        "dependencies": [{"ref": "Rich_Text", "dependsOn": ["other"]}, {"ref": "other"}],
    }
    document = write_sbom.part(whole, {"rich-text": "1.0", "nvidia-x": "2.0"})
    assert [one["name"] for one in document["components"]] == ["nvidia-x", "Rich_Text"]
    assert document["dependencies"] == [{"ref": "Rich_Text", "dependsOn": []}]
    with pytest.raises(ValueError, match=r"run `make locks`"):
        write_sbom.part(whole, {"rich-text": "1.1"})


PIP_AUDIT = """#!/bin/sh
echo '{answer}'
"""


@pytest.mark.parametrize(
    ("package", "code"),
    [
        ({"vulns": []}, 0),
        ({"skip_reason": "not found"}, 0),
        ({"vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}, 1),
    ],
)
def test_an_audit_tells_what_it_knows(
    package: dict[str, Any],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A vulnerability fails it; no data fails it where data is required."""
    program = tmp_path / "pip-audit"
    answer = json.dumps({"dependencies": [{"name": "a", "version": "1", **package}]})
    program.write_text(PIP_AUDIT.format(answer=answer))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "argv", ["audit.py"])

    assert audit.main() == code
    monkeypatch.setattr(sys, "argv", ["audit.py", "--require-data"])
    assert audit.main() == int(package != {"vulns": []})


DOCKER = """#!/bin/sh
[ "$1" = pull ] && exit 0
echo "${5%%:*}@sha256:$(printf %064d 7)"
"""


def test_base_images_are_pinned_by_what_the_registry_has(tmp_path: Path) -> None:
    """Each tag gets the digest behind it, also where it had another one before."""
    for name in ("pin_base_images.sh", "base-images.mk"):
        shutil.copy(ROOT / "supply" / name, tmp_path)
    docker = tmp_path / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    before = (tmp_path / "base-images.mk").read_text()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run([tmp_path / "pin_base_images.sh"], check=True, env=environment)
    after = (tmp_path / "base-images.mk").read_text()
    digest = f"@sha256:{7:064d}"
    assert after.count(digest) == 3
    assert after.replace(digest, "") == re.sub(r"@\S+", "", before)

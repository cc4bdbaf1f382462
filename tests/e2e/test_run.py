"""A run of the scenarios that has shown nothing does not pass."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_run_without_a_cluster_fails_and_says_why() -> None:
    """Everything skipped is not success."""
    command = [sys.executable, "-m", "pytest", "e2e", "-rs", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert "--cluster=kind makes one, --cluster=current uses an existing one" in done.stdout
    assert " passed" not in done.stdout
    assert done.returncode == 1

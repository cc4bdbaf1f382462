"""The private directory of a run, and what the next run makes of one that was left."""

import os
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from steelyard_operator.local.scratch import HALF_MADE_SECONDS, PREFIX, Scratch


def test_the_directory_is_private_and_goes(tmp_path: Path) -> None:
    """Only the user reads it and its secrets, and nothing remains."""
    with Scratch(tmp_path) as scratch:
        secret = scratch.write_secret("token", "s3cret")

        assert stat.S_IMODE(scratch.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert secret.read_text() == "s3cret"
    assert list(tmp_path.iterdir()) == []


def test_a_running_neighbour_is_left_alone(tmp_path: Path) -> None:
    """A second run does not remove the directory of the first."""
    with Scratch(tmp_path) as first, Scratch(tmp_path) as second:
        assert first.path.exists()
        assert second.path != first.path


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    """The kernel frees the lock of a killed process, and the next run takes the directory away."""
    script = """
        import os, sys
        from pathlib import Path
        from steelyard_operator.local.scratch import Scratch
        Scratch(Path(sys.argv[1])).directory("tmp")
        os.kill(os.getpid(), 9)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    operator = str(Path(__file__).parents[3] / "operator")
    subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": operator})
    assert len(list(tmp_path.iterdir())) == 1
    with Scratch(tmp_path) as scratch:
        assert list(tmp_path.iterdir()) == [scratch.path]


def test_a_directory_without_a_lock_is_kept_while_it_is_new(tmp_path: Path) -> None:
    """A run that has just made its directory may not have locked it yet."""
    new, old = tmp_path / f"{PREFIX}new", tmp_path / f"{PREFIX}old"
    new.mkdir()
    old.mkdir()
    long_ago = time.time() - HALF_MADE_SECONDS - 1
    os.utime(old, (long_ago, long_ago))
    with Scratch(tmp_path):
        assert new.exists()
        assert not old.exists()


def test_foreign_directories_are_not_touched(tmp_path: Path) -> None:
    """Only names of ours are looked at."""
    (tmp_path / "other").mkdir()
    with Scratch(tmp_path):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["other"]

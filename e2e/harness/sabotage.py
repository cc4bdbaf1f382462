"""Images with a fault in them, to see that the suite notices: a run with one must fail."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "sabotage"
SABOTAGES = {"prestop": "steelyard-operator:dev", "drain": "steelyard-runtime:dev"}


@contextmanager
def sabotaged_images(fault: str | None) -> Iterator[None]:
    """For a while, the image that a fault is in has its ordinary name."""
    if fault is None:
        yield
        return
    image = SABOTAGES[fault]
    intact = image.replace(":dev", ":intact")
    _docker("tag", image, intact)
    arguments = ("--build-arg", f"INTACT={intact}", "--build-arg", f"FAULT={fault}")
    try:
        _docker("build", *arguments, "--tag", image, str(FOLDER))
        yield
    finally:
        _docker("tag", intact, image)


def _docker(*arguments: str) -> None:
    done = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"

"""Run `steelyard` with the stand-in for the runtime; a script, because tests kill it."""

import sys
from pathlib import Path

from steelyard_operator.cli import main

FAKE = Path(__file__).with_name("fake_runtime.py")

if __name__ == "__main__":
    raise SystemExit(main(runtime=(sys.executable, str(FAKE))))

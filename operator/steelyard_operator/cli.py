"""`steelyard`: the command that people type."""

import sys
from collections.abc import Sequence

from steelyard_operator import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        sys.stdout.write(f"{__version__}\n")
        return 0
    sys.stderr.write("usage: steelyard up FILE\n")
    return 2

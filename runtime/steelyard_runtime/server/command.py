"""The `serve` command line."""

from collections.abc import Sequence

from steelyard_runtime.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Parse flags and run until a signal."""
    raise ConfigError(f"not built yet: {arguments}")

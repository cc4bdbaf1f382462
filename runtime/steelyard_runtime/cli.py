"""`steelyard-runtime`: one sub-command a process kind. Imports only the chosen one."""

import sys
from collections.abc import Callable, Sequence

from steelyard_runtime import __version__
from steelyard_runtime.errors import ConfigError

USAGE = """usage: steelyard-runtime COMMAND [FLAGS]

  serve      a worker: HTTP process and engine process
  router     the HTTP front of one service
  fetch      bring a checkpoint from a hub or a bucket into a folder
  --version  print the version

`steelyard-runtime COMMAND --help` lists the flags.
"""


def _serve(arguments: Sequence[str]) -> int:
    from steelyard_runtime.server.command import main as serve

    return serve(arguments)


def _router(arguments: Sequence[str]) -> int:
    from steelyard_runtime.router.command import main as router

    return router(arguments)


def _fetch(arguments: Sequence[str]) -> int:
    from steelyard_runtime.fetch.command import main as fetch

    return fetch(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "serve": _serve,
    "router": _router,
    "fetch": _fetch,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        sys.stdout.write(f"{__version__}\n")
        return 0
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0 if given else 2
    command = COMMANDS.get(given[0])
    if command is None:
        known = ", ".join(sorted(COMMANDS))
        sys.stderr.write(
            f"steelyard-runtime: unknown command '{given[0]}'; must be one of: {known}\n"
        )
        return 2
    try:
        return command(given[1:])
    except ConfigError as error:
        sys.stderr.write(f"steelyard-runtime: {error}\n")
        return 2


if __name__ == "__main__":
    raise SystemExit(main())

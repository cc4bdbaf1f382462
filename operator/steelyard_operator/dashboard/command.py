"""The command line of `steelyard dashboard`."""

import argparse
import asyncio
import sys
from collections.abc import Callable

from steelyard_operator.arguments import add_service, port
from steelyard_operator.errors import UserError

DEFAULT_PORT = 8081


def add_parser(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the parser with the `add_parser` of a command."""
    parser = add(
        "dashboard",
        help="show a service on a cluster as a live page on this machine",
        description="Serve a live page of an InferenceService on 127.0.0.1 until Ctrl-C: its "
        "workers by role, latencies, cost, flips, and a box to ask something. It needs kubectl, "
        "and rights to get the resource, to list its pods and to forward ports of its routers.",
        allow_abbrev=False,
    )
    add_service(parser)
    parser.add_argument(
        "--port",
        type=port,
        default=DEFAULT_PORT,
        metavar="N",
        help=f"where the page is; 0 is any free one (default: {DEFAULT_PORT})",
    )


def run(given: argparse.Namespace) -> int:
    """Serve until interrupted.

    Raises:
        UserError: there is no such service, no kubectl, or the port is taken.
        OperatorError: the API server does not answer, or refuses.
    """
    try:
        from steelyard_operator.dashboard.serving import serve_dashboard
    except ModuleNotFoundError as error:
        raise UserError(
            f"a cluster needs the package '{error.name}'; install steelyard[operator]"
        ) from None

    def announce(address: str) -> None:
        sys.stdout.write(f"live page of {given.name}: {address}\nCtrl-C stops it.\n")
        sys.stdout.flush()

    try:
        asyncio.run(
            serve_dashboard(given.namespace, given.name, given.context, given.port, announce)
        )
    except KeyboardInterrupt:
        return 0
    return 0

"""The command lines of `steelyard render` and `steelyard plan`."""

import argparse
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from steelyard_operator.errors import UserError


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add both commands' parsers with the `add_parser` of a command."""
    render = add(
        "render",
        help="print every object that the operator makes of a file",
        description="Print as YAML what the operator makes of FILE, with pods as they start. "
        "Images and the like are the operator's settings, environment variables STEELYARD_*.",
        allow_abbrev=False,
    )
    plan = add(
        "plan",
        help="print what would change on a cluster; nothing is changed",
        description="Print what the operator would do next if FILE were applied.",
        allow_abbrev=False,
    )
    for each in (render, plan):
        each.add_argument("file", type=Path, metavar="FILE", help="a file of kind InferenceService")
        each.add_argument("--namespace", metavar="NS", help="instead of the file's")
    where = plan.add_mutually_exclusive_group()
    where.add_argument("--context", metavar="NAME", help="of the kubeconfig; its current one")
    where.add_argument("--empty", action="store_true", help="compare with an empty cluster")


def run(given: argparse.Namespace) -> int:
    """Run one of both commands.

    Raises:
        UserError: the file, the settings or the kubeconfig are wrong.
        OperatorError: the API server does not answer.
    """
    from steelyard_operator.preview.rendering import read_service, render
    from steelyard_operator.settings import from_environment

    settings = from_environment(os.environ)
    if given.command == "render":
        sys.stdout.write(render(given.file, given.namespace, settings))
        return 0
    from steelyard_operator.preview.planning import preview
    from steelyard_operator.preview.situation import Situation

    service = read_service(given.file, given.namespace, settings)
    if given.empty:
        situation = Situation()
    else:
        try:
            from steelyard_operator.preview.cluster import observe
        except ModuleNotFoundError as error:
            raise UserError(
                f"a cluster needs the package '{error.name}'; install steelyard[operator], "
                "or give --empty"
            ) from None
        situation = observe(service, given.context)
    lines = preview(service, situation, settings, datetime.now(UTC))
    sys.stdout.write("\n".join(lines) + "\n")
    return 0

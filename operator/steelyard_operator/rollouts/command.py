"""The command line of `steelyard rollout`."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from steelyard_operator.arguments import add_service, positive
from steelyard_operator.errors import UserError

HEADER = ("REVISION", "HASH", "ROLES", "CURRENT", "PODS", "AGE")


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the parsers with the `add_parser` of a command."""
    rollout = add(
        "rollout",
        help="list a service's revisions, compare two, go back to one",
        description="Handle the revisions that the operator keeps of a service on a cluster.",
        allow_abbrev=False,
    )
    actions = rollout.add_subparsers(dest="action", metavar="ACTION", required=True)
    about = {
        "history": "list the revisions that are kept",
        "diff": "show what differs between two revisions",
        "undo": "let the resource ask for an older revision again",
    }
    for action, text in about.items():
        parser = actions.add_parser(
            action, help=text, description=f"{text.capitalize()}.", allow_abbrev=False
        )
        add_service(parser)
        if action == "history":
            parser.add_argument("--json", action="store_true", help="print a list of objects")
        elif action == "diff":
            parser.add_argument(
                "--from", dest="old", type=positive, metavar="N", help="the one before the newest"
            )
            parser.add_argument("--to", dest="new", type=positive, metavar="N", help="the newest")
        else:
            parser.add_argument(
                "--to-revision", dest="old", type=positive, metavar="N", help="the one before it"
            )


def run(given: argparse.Namespace) -> int:
    """Run one action; returns the exit code.

    Raises:
        UserError: there is no such service or revision, or no cluster.
        OperatorError: the API server does not answer, or refuses.
    """
    try:
        import steelyard_operator.rollouts.cluster  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"a cluster needs the package '{error.name}'; install steelyard[operator]"
        ) from None
    lines = asyncio.run(_run(given))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


async def _run(given: argparse.Namespace) -> list[str]:
    from steelyard_operator.kube.connecting import connected
    from steelyard_operator.rollouts import history
    from steelyard_operator.rollouts.cluster import find_service, write

    async with connected(given.context) as client:
        found = await find_service(client, given.namespace, given.name)
        if given.action == "history":
            rows = history.history(found.revisions, found.current, datetime.now(UTC))
            return [json.dumps(rows, indent=2)] if given.json else _table(rows)
        if given.action == "diff":
            new = (
                history.latest(found.revisions, found.current)
                if given.new is None
                else history.find(found.revisions, given.new)
            )
            old = (
                history.before(found.revisions, new)
                if given.old is None
                else history.find(found.revisions, given.old)
            )
            lines = history.difference(old, new)
            return lines or [f"revisions {old.number} and {new.number} are made from the same"]
        if given.old is None:
            newest = history.latest(found.revisions, found.current)
            target = history.before(found.revisions, newest)
        else:
            target = history.find(found.revisions, given.old)
        if all(found.current[role] == target.hash for role in target.roles):
            return [f"{given.name} asks for revision {target.number} already; nothing is changed"]
        operations = history.undo(found.resource, found.revisions, found.current, target)
        await write(client, given.namespace, given.name, operations)
        return [f"{given.name} asks for revision {target.number} again; the operator rolls it out"]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        HEADER,
        *(
            (
                str(row["revision"]),
                row["hash"],
                ",".join(row["roles"]),
                ",".join(row["current"]) or "-",
                str(row["pods"]),
                _age(row["age_seconds"]),
            )
            for row in rows
        ),
    ]
    widths = [max(len(line[place]) for line in cells) for place in range(len(HEADER))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _age(seconds: int | None) -> str:
    """Return an age as kubectl shows it, in its largest unit."""
    if seconds is None:
        return "?"
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"

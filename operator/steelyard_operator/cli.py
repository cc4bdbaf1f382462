"""`steelyard`: the command that people type. Arguments become options; nothing is decided here."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from steelyard_operator import __version__
from steelyard_operator.arguments import port, positive
from steelyard_operator.dashboard.command import add_parser as add_dashboard
from steelyard_operator.dashboard.command import run as dashboard
from steelyard_operator.errors import OperatorError, UserError
from steelyard_operator.preview.command import add_parsers
from steelyard_operator.preview.command import run as preview
from steelyard_operator.rollouts.command import add_parsers as add_rollout
from steelyard_operator.rollouts.command import run as rollout
from steelyard_operator.simulation.command import add_parsers as add_simulation
from steelyard_operator.simulation.command import run as simulation

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    root = _Parser(
        prog="steelyard",
        description="Serve language models with separate prefill and decode workers.",
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser(
        "crd",
        help="print the CustomResourceDefinition",
        description="Print the CustomResourceDefinition of InferenceService, for kubectl apply.",
        allow_abbrev=False,
    )
    commands.add_parser(
        "operator",
        help="run the operator, in a pod or against the cluster of KUBECONFIG",
        description="Run the operator; its settings are environment variables STEELYARD_*.",
        allow_abbrev=False,
    )
    add_parsers(commands.add_parser)
    add_rollout(commands.add_parser)
    add_dashboard(commands.add_parser)
    add_simulation(commands.add_parser)
    up = commands.add_parser(
        "up",
        help="run a service on this machine, without Kubernetes",
        description="Run the InferenceService that FILE describes on this machine.",
        allow_abbrev=False,
    )
    up.add_argument("file", type=Path, metavar="FILE", help="a YAML file of kind InferenceService")
    up.add_argument(
        "--prompt", type=_text, metavar="TEXT", help="answer this and exit, instead of serving"
    )
    up.add_argument(
        "--port",
        type=port,
        metavar="N",
        help="port of the endpoint; 0 is any free one (default: 8080, with --prompt any free one)",
    )
    up.add_argument(
        "--max-tokens", type=positive, default=256, metavar="N", help="longest answer to --prompt"
    )
    up.add_argument(
        "--page-port",
        type=port,
        default=0,
        metavar="N",
        help="port of the live page; 0, the default, is any free one",
    )
    up.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    up.add_argument("--verbose", action="store_true", help="show the logs of all processes")
    return root


def main(arguments: Sequence[str] | None = None, *, runtime: Sequence[str] = ()) -> int:
    """Run one sub-command; returns its exit code.

    Args:
        arguments: the command line, this process' own where it is not given.
        runtime: what to run for `steelyard-runtime`; the installed one where it is not given.
    """
    try:
        given = parser().parse_args(sys.argv[1:] if arguments is None else list(arguments))
        if given.command == "crd":
            from steelyard_operator.api.crdgen import crd_yaml

            sys.stdout.write(crd_yaml())
            return 0
        if given.command == "operator":
            return _operator()
        if given.command in ("render", "plan"):
            return preview(given)
        if given.command == "rollout":
            return rollout(given)
        if given.command == "dashboard":
            return dashboard(given)
        if given.command in ("simulate", "replay"):
            return simulation(given)
        from steelyard_operator.local.up import Options, up

        return up(
            Options(
                file=given.file,
                prompt=given.prompt,
                port=given.port,
                json=given.json,
                verbose=given.verbose,
                max_tokens=given.max_tokens,
                page_port=given.page_port,
                runtime=tuple(runtime),
            )
        )
    except UserError as error:
        sys.stderr.write(f"steelyard: {error}\n")
        return WRONG_INPUT
    except OperatorError as error:
        sys.stderr.write(f"steelyard: {error}\n")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of standard output is gone; Python would complain once more while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _operator() -> int:
    try:
        from steelyard_operator.main import operator
    except ModuleNotFoundError as error:
        raise UserError(
            f"the operator needs the package '{error.name}'; install steelyard[operator]"
        ) from None
    return operator()


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


if __name__ == "__main__":
    raise SystemExit(main())

"""Values and options that several sub-commands take: one wording for each."""

import argparse


def port(text: str) -> int:
    """Read a port; 0 is any free one.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 65535, got '{text}'")
    return int(text)


def positive(text: str) -> int:
    """Read a number from 1.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number from 1, got '{text}'")
    return int(text)


def add_service(parser: argparse.ArgumentParser) -> None:
    """Add what names a service on a cluster."""
    parser.add_argument("name", metavar="NAME", help="of the InferenceService")
    parser.add_argument("-n", "--namespace", metavar="NS", default="default")
    parser.add_argument("--context", metavar="NAME", help="of the kubeconfig; its current one")

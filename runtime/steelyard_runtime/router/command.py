"""The `router` command line: flags (docs/contract.md, section 4).

Secrets come from files or the environment, never from argv.
"""

import argparse
import gc
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import uvloop
from prometheus_client import disable_created_metrics

from steelyard_runtime import logs
from steelyard_runtime.errors import ConfigError
from steelyard_runtime.parent_pipe import exit_with_parent
from steelyard_runtime.router.app import membership_source, serve
from steelyard_runtime.router.connections import most_connections
from steelyard_runtime.router.key_files import read_api_keys, read_worker_key
from steelyard_runtime.router.keys import ApiKey, parse_api_keys
from steelyard_runtime.router.settings import Endpoints, RouterSettings

_SUFFIXES = {"K": 1024, "M": 1024**2, "G": 1024**3}
_LEVELS = ("debug", "info", "warning", "error")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"router: {message}")


def main(arguments: Sequence[str]) -> int:
    """Parse flags and run until a signal; returns the exit code."""
    given = build_parser().parse_args(arguments)
    settings = settings_from(given, os.environ)
    exit_with_parent(os.environ)
    logs.configure(given.log_level)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # The library has no types here.
    _calm_collector()
    return uvloop.run(serve(settings, membership_source(settings, os.environ)))


def _calm_collector() -> None:
    """Keep the collector off what lives for ever: a pass over it stops all streams for 40 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)


def settings_from(given: argparse.Namespace, environment: Mapping[str, str]) -> RouterSettings:
    """Read the files that flags name.

    Raises:
        ConfigError: a file is missing, unreadable or wrong.
    """
    return RouterSettings(
        served_model_name=given.served_model_name,
        membership_file=given.membership_file,
        endpoints=_endpoints(given),
        host=given.host,
        port=given.port,
        api_keys=_api_keys(given.api_keys_file, environment),
        api_keys_file=given.api_keys_file,
        worker_api_key=(
            read_worker_key(given.worker_api_key_file) if given.worker_api_key_file else ""
        ),
        worker_api_key_file=given.worker_api_key_file,
        min_remote_prefill_tokens=given.min_remote_prefill_tokens,
        prefill_timeout_seconds=given.prefill_timeout_seconds,
        queue_timeout_seconds=given.queue_timeout_seconds,
        last_resort_seconds=min(2.0, given.queue_timeout_seconds),
        max_request_bytes=given.max_request_bytes,
        allowed_origins=given.allowed_origins,
        allowed_hosts=given.allowed_hosts,
        max_connections=given.max_connections or most_connections(),
        sse_keepalive_seconds=given.sse_keepalive_seconds,
        drain_timeout_seconds=given.drain_timeout_seconds,
        linger_seconds=given.linger_seconds,
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `docs/contract.md` section 4 lists the same flags."""
    parser = _Parser(
        prog="steelyard-runtime router",
        description="The HTTP front of one service: pairs prefill and decode workers.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    add("--port", type=_count(0, 65535), default=8080, metavar="N", help="default 8080")
    add("--membership-file", type=Path, metavar="PATH", help="watched; or the three flags below")
    add("--endpoints-namespace", metavar="NAMESPACE", help="watch EndpointSlices, in a pod")
    add("--prefill-service", metavar="NAME", help="the Service that lists prefill workers")
    add("--decode-service", metavar="NAME", help="the Service that lists decode workers")
    add("--served-model-name", required=True, metavar="NAME")
    add("--api-keys-file", type=Path, metavar="PATH", help="or STEELYARD_API_KEYS")
    add("--worker-api-key-file", type=Path, metavar="PATH", help="the key that workers expect")
    add("--min-remote-prefill-tokens", type=_count(0), default=64, metavar="N")
    add("--prefill-timeout-seconds", type=_seconds, default=60.0, metavar="S")
    add("--queue-timeout-seconds", type=_seconds, default=30.0, metavar="S")
    add("--max-request-bytes", type=_bytes, default=10 * 1024**2, metavar="N")
    add("--allowed-origins", type=_list, default=(), metavar="ORIGIN[,ORIGIN]", help="CORS")
    add("--allowed-hosts", type=_list, default=(), metavar="NAME[,NAME]", help="without keys")
    add("--max-connections", type=_count(16, 1_000_000), metavar="N", help="of clients")
    add("--sse-keepalive-seconds", type=_seconds, default=15.0, metavar="S")
    add("--drain-timeout-seconds", type=_seconds, default=30.0, metavar="S")
    add(
        "--linger-seconds", type=_pause, default=5.0, metavar="S", help="0: close idle ones at once"
    )
    add("--log-level", choices=_LEVELS, default="info", metavar="LEVEL")
    return parser


def _endpoints(given: argparse.Namespace) -> Endpoints | None:
    flags = (given.endpoints_namespace, given.prefill_service, given.decode_service)
    whole, some = all(flags), any(flags)
    if some != whole or whole == (given.membership_file is not None):
        raise ConfigError(
            "router: either --membership-file must be given, or --endpoints-namespace, "
            "--prefill-service and --decode-service together"
        )
    return Endpoints(*flags) if whole else None


def _count(low: int, high: int | None = None) -> "_Converter":
    return _Converter(low, high)


class _Converter:
    """Accepts an integer within bounds."""

    def __init__(self, low: int, high: int | None) -> None:
        self._low = low
        self._high = high

    def __call__(self, value: str) -> int:
        allowed = (
            f"of at least {self._low}" if self._high is None else f"{self._low} to {self._high}"
        )
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None
        if number is None or number < self._low or (self._high is not None and number > self._high):
            raise argparse.ArgumentTypeError(f"must be an integer {allowed}, got '{value}'")
        return number


def _seconds(value: str) -> float:
    seconds = _number(value)
    if not 0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, got '{value}'")
    return seconds


def _pause(value: str) -> float:
    seconds = _number(value)
    if not 0 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"must be seconds, 0 or more, got '{value}'")
    return seconds


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _bytes(value: str) -> int:
    factor = _SUFFIXES.get(value[-1:], 1)
    digits = value[:-1] if factor > 1 else value
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16 and int(digits) > 0):
        raise argparse.ArgumentTypeError(f"must be a positive number of bytes, got '{value}'")
    return int(digits) * factor


def _list(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _api_keys(path: Path | None, environment: Mapping[str, str]) -> tuple[ApiKey, ...]:
    if path is not None:
        return read_api_keys(path)
    text = environment.get("STEELYARD_API_KEYS")
    return parse_api_keys(text, "STEELYARD_API_KEYS") if text else ()

"""What the operator renders is what the runtime parses, and docs/contract.md says so.

The two packages never import each other; these tests are the one place that knows both.
"""

import argparse
import re
from pathlib import Path

import pytest

from steelyard_operator.api.load import load
from steelyard_operator.api.names import Role
from steelyard_operator.backends.base import RouterPlacement, WorkerPlacement
from steelyard_operator.backends.native import EXECUTABLE, NativeBackend
from steelyard_operator.backends.router import router
from steelyard_runtime.cli import COMMANDS
from steelyard_runtime.router.command import build_parser as router_parser
from steelyard_runtime.server.app import OPEN_PATHS
from steelyard_runtime.server.flags import build_parser as worker_parser

ROOT = Path(__file__).parents[2]
CONTRACT = (ROOT / "docs/contract.md").read_text()
SAMPLE = load((ROOT / "manifests/samples/smollm2.yaml").read_text(), "smollm2.yaml")
FULL = load(
    """
apiVersion: steelyard.dev/v1alpha1
kind: InferenceService
metadata: {name: full}
spec:
  model: {uri: "file:///m.gguf", servedName: full, maxModelLen: 1024}
  runtime: {extraArgs: [--max-num-seqs, "4", --kv-transport, tcp]}
  rollout: {drainSeconds: 7}
""",
    "full.yaml",
)
LOCAL = WorkerPlacement(
    host="127.0.0.1",
    port=20000,
    admin_port=20001,
    kv_host="127.0.0.1",
    kv_port=20002,
    kv_peers=("127.0.0.1/32",),
    service_token_file="/scratch/token",
    role=Role.PREFILL,
    threads=1,
)
POD = WorkerPlacement(
    host="0.0.0.0",
    port=8000,
    admin_port=8001,
    kv_host="10.0.0.7",
    kv_port=5600,
    kv_peers=("10.0.0.0/8", "fd00::/8"),
    service_token_file="/token",
    role_file="/labels",
)


@pytest.mark.parametrize("service", [SAMPLE, FULL], ids=lambda service: service.metadata.name)
@pytest.mark.parametrize("placement", [LOCAL, POD], ids=["local", "pod"])
def test_a_rendered_worker_is_parsed(service: object, placement: WorkerPlacement) -> None:
    """Every flag of a rendered worker is known and its value is taken over."""
    executable, command, *flags = NativeBackend().worker(service, placement).command
    given = worker_parser().parse_args(flags)

    assert (executable, command) == (EXECUTABLE, "serve")
    assert given.port == placement.port
    assert given.admin_port == placement.admin_port
    assert given.kv_port == placement.kv_port
    assert given.kv_host == placement.kv_host
    assert given.threads == placement.threads
    assert given.served_model_name == service.spec.model.name
    assert given.drain_timeout_seconds == service.spec.rollout.drain_seconds


def test_the_flag_for_the_serving_ports_key_is_the_runtimes() -> None:
    """What the operator adds to a pod's arguments is parsed."""
    _, _, *flags = NativeBackend().worker(FULL, POD).command
    given = worker_parser().parse_args([NativeBackend.api_key_flag, "/key", *flags])

    assert given.api_key_file == Path("/key")


def test_probes_and_scrapers_need_no_key() -> None:
    """What the kubelet, Prometheus and the operator ask for is open on a port that wants a key."""
    worker = NativeBackend().worker(FULL, POD)
    probes = {probe.path for probe in (worker.startup, worker.readiness, worker.liveness)}

    assert {*probes, "/metrics"} <= OPEN_PATHS
    assert not [path for path in OPEN_PATHS if path.startswith("/v1")]


def test_extra_arguments_win() -> None:
    """What a user adds stands last, so it overrides what is rendered."""
    _, _, *flags = NativeBackend().worker(FULL, LOCAL).command
    given = worker_parser().parse_args(flags)

    assert given.max_num_seqs == 4
    assert given.kv_transport == "tcp"


@pytest.mark.parametrize("role", Role)
def test_every_role_is_known_to_the_runtime(role: Role) -> None:
    """The API's CamelCase roles map onto the wire's lower case."""
    given = worker_parser().parse_args(["--model", "m", "--role", role.wire])

    assert given.role == role.value.lower()


def test_a_rendered_router_is_parsed() -> None:
    """Every flag of a rendered router is known and its value is taken over."""
    placement = RouterPlacement(
        "127.0.0.1",
        8080,
        "/members.json",
        api_keys_file="/keys",
        worker_api_key_file="/worker-key",
    )
    executable, command, *flags = router(FULL, placement).command
    given = router_parser().parse_args(flags)

    assert (executable, command) == (EXECUTABLE, "router")
    assert given.membership_file == Path("/members.json")
    assert given.api_keys_file == Path("/keys")
    assert given.worker_api_key_file == Path("/worker-key")
    assert given.served_model_name == "full"
    assert given.drain_timeout_seconds == 7


def section(number: int) -> str:
    """Return one numbered section of the contract."""
    return CONTRACT.split(f"\n## {number}. ")[1].split("\n## ")[0]


def rows(number: int) -> list[list[str]]:
    """Return the cells of the first table of a section that is about flags."""
    lines = [line for line in section(number).splitlines() if line.startswith("| `--")]
    return [re.split(r"(?<!\\)\|", line.strip("| ")) for line in lines]


def documented_flags(number: int) -> set[str]:
    """Return the flags that a section's table lists."""
    return {flag for row in rows(number) for flag in re.findall(r"--[a-z-]+", row[0])}


PARSERS = {1: worker_parser, 4: router_parser}


@pytest.mark.parametrize("number", PARSERS, ids=["worker", "router"])
def test_the_contract_lists_exactly_the_flags_there_are(number: int) -> None:
    """A flag is in the parser and in docs/contract.md, or in neither."""
    actions = [a for a in PARSERS[number]()._actions if a.dest != "help"]
    documented = documented_flags(number)
    known = {option for action in actions for option in action.option_strings}

    assert documented - known == set()
    assert [a.dest for a in actions if not documented & set(a.option_strings)] == []


def documented_defaults(number: int) -> list[tuple[str, str]]:
    """Return (flag, default) for each default that the table gives as a value."""
    pairs: list[tuple[str, str]] = []
    for row in rows(number):
        flags = re.findall(r"--[a-z-]+", row[0])
        defaults = [part.strip(" `") for part in row[1].split(" / ")]
        if len(flags) == len(defaults):
            pairs += zip(flags, defaults, strict=True)
    plain = re.compile(r"[0-9.]+( MiB)?|auto|cpu|both|info|hermes")
    return [(flag, default) for flag, default in pairs if plain.fullmatch(default)]


DEFAULTS = [(number, *pair) for number in PARSERS for pair in documented_defaults(number)]


@pytest.mark.parametrize(("number", "flag", "default"), DEFAULTS)
def test_a_documented_default_is_the_parsers(number: int, flag: str, default: str) -> None:
    """The contract's defaults are those that hold."""
    parser = PARSERS[number]()
    action = next(a for a in parser._actions if flag in a.option_strings)
    size = default.removesuffix(" MiB")
    expected = str(int(size) * 1024**2) if size != default else default

    assert _plain(action) == expected


def _plain(action: argparse.Action) -> str:
    value = action.default
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_runtime_has_the_commands_that_are_rendered() -> None:
    """`steelyard-runtime` knows both sub-commands."""
    assert {"serve", "router"} <= COMMANDS.keys()

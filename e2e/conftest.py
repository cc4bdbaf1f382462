"""The run: its cluster, the one service that all scenarios share, the list that is printed."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import evidence
from harness.clusters import (
    NAMESPACE,
    OPERATOR_NAMESPACE,
    Cluster,
    existing_cluster,
    own_kind_cluster,
)
from harness.sabotage import SABOTAGES, sabotaged_images
from harness.service import SAMPLE, Service
from harness.traffic import OPEN_STREAMS, Question, Traffic, questions
from harness.verdict import Verdict, complaints, failed, longest_gap, report
from harness.world import Scenario, World

ROOT = Path(__file__).parents[1]
ANSWER_TOKENS = 96
DECODE_WORKERS = 2  # so that a stream has another worker to go on
# Two cores that also start workers write an answer in up to 45 s, and a stream that is cut at the
# deadline and goes on elsewhere is told from one that was not drained at all by this alone.
DRAIN_SECONDS = 120
VERDICTS = pytest.StashKey[list[Verdict]]()
Play = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of a run on a cluster."""
    group = parser.getgroup("cluster")
    group.addoption(
        "--cluster",
        choices=("kind", "current"),
        help="kind: a cluster of its own; current: the current context, named steelyard-…",
    )
    group.addoption("--namespace", default=NAMESPACE, help="of the service")
    group.addoption(
        "--operator-namespace", default=OPERATOR_NAMESPACE, help="of the operator that serves it"
    )
    group.addoption("--driver-image", default="steelyard-router:dev", help="with --cluster=current")
    group.addoption("--keep", action="store_true", help="use and leave the kind cluster of before")
    group.addoption("--seed", type=int, help="of all choices; printed")
    group.addoption("--minutes", type=float, default=0, help="of random scenarios (test_chaos.py)")
    group.addoption("--results", default="e2e-results", help="folder for what failures leave")
    group.addoption(
        "--sabotage",
        choices=sorted(SABOTAGES),
        help="break the product on purpose: the run must fail (--cluster=kind)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the list; choose a seed where none is given."""
    config.stash[VERDICTS] = []
    if config.option.seed is None:
        config.option.seed = random.randrange(10**6)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Random scenarios are played only where `--minutes` says for how long."""
    chosen = [item for item in items if config.option.minutes or item.path.stem != "test_chaos"]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_report_header(config: pytest.Config) -> str:
    """Name the seed."""
    return f"cluster: {config.option.cluster}, seed: {config.option.seed}"


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The cluster that the run was asked to use."""
    option = request.config.option
    if option.cluster is None:
        pytest.skip("no cluster: --cluster=kind makes one, --cluster=current uses an existing one")
    if option.cluster == "current":
        assert not option.sabotage, "--sabotage needs --cluster=kind"
        yield existing_cluster(option.namespace, option.driver_image, option.operator_namespace)
        return
    with (
        sabotaged_images(option.sabotage),
        own_kind_cluster(tmp_path_factory.mktemp("kind"), keep=option.keep) as own,
    ):
        yield own


@pytest.fixture(scope="session")
def service(cluster: Cluster, request: pytest.FixtureRequest) -> Service:
    """The sample's service, applied as the README says, and steady."""
    cluster.kubectl("apply", "--filename", str(SAMPLE))
    service = Service(cluster.kubectl, SAMPLE.stem)
    try:
        service.wait_steady()
    except AssertionError:
        evidence.keep(cluster.kubectl, cluster.operator, _results(request.config) / "apply", "")
        raise
    return service


@pytest.fixture(scope="session")
def recorded(cluster: Cluster, service: Service) -> list[Question]:
    """The questions with the answers that the service gives while nothing else happens."""
    text = (ROOT / "LICENSE").read_text()
    model = service.read()["spec"]["model"]["servedName"]
    asked = questions(model, text, tokens=ANSWER_TOKENS)
    return _traffic(cluster, service, asked).record()


@pytest.fixture(scope="session")
def ground(service: Service, recorded: list[Question]) -> Service:
    """The service with enough decode workers that a lost one leaves another."""
    service.change(
        {"decode": {"replicas": DECODE_WORKERS}, "rollout": {"drainSeconds": DRAIN_SECONDS}}
    )
    service.wait_steady()
    return service


@pytest.fixture
def play(
    cluster: Cluster,
    service: Service,
    recorded: list[Question],
    request: pytest.FixtureRequest,
) -> Play:
    """Play a scenario under traffic, judge its requests, and note the result."""

    def run(scenario: Scenario, *, seed: int | None = None) -> None:
        chosen = random.Random(request.config.option.seed if seed is None else seed)
        traffic = _traffic(cluster, service, recorded)
        world = World(cluster, service, traffic, chosen)
        verdicts = request.config.stash[VERDICTS]
        started = time.monotonic()
        delta: int | None = None
        try:
            before = service.replays()
            traffic.start()
            scenario.run(world)
            traffic.let_end()
            traffic.finish()
            after = service.replays()
            delta = int(sum(after[name] - before.get(name, 0) for name in after))
            found = complaints(
                traffic.records,
                at_least=OPEN_STREAMS,
                replays=delta,
                replays_allowed=scenario.kills,
            )
            assert not found, "\n".join(found)
        except BaseException:
            traffic.abandon()
            verdicts.append(_verdict(scenario, traffic, delta, started, "failed"))
            folder = _results(request.config) / scenario.name.replace(" ", "-")
            evidence.keep(cluster.kubectl, cluster.operator, folder, traffic.log)
            raise
        verdicts.append(_verdict(scenario, traffic, delta, started, "passed"))

    return run


def _verdict(
    scenario: Scenario, traffic: Traffic, delta: int | None, started: float, result: str
) -> Verdict:
    return Verdict(
        scenario=scenario.name,
        requests=len(traffic.records),
        failures=len(failed(traffic.records)),
        longest_gap_seconds=round(longest_gap(traffic.records), 2),
        replays=delta,
        seconds=round(time.monotonic() - started, 1),
        result=result,
    )


def _traffic(cluster: Cluster, service: Service, asked: list[Question]) -> Traffic:
    return Traffic(
        cluster.kubectl, cluster.driver_image, service.url(), asked, node=cluster.nodes[0]
    )


def _results(config: pytest.Config) -> Path:
    return ROOT / str(config.option.results)


@pytest.fixture
def without_traffic(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Note a scenario that has no traffic of its own."""
    started = time.monotonic()

    def note(name: str) -> None:
        seconds = round(time.monotonic() - started, 1)
        request.config.stash[VERDICTS].append(Verdict(name, 0, 0, 0.0, None, seconds))

    yield note


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the list of scenarios as JSON."""
    if verdicts := config.stash[VERDICTS]:
        terminalreporter.section("scenarios")
        terminalreporter.write_line(report(verdicts))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which everything was skipped has shown nothing: it fails."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == pytest.ExitCode.OK and reporter and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

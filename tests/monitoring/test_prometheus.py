"""A real Prometheus reads a real service and the operator's page; every panel has an answer."""

import shutil
import urllib.parse
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client import start_http_server

from steelyard_operator.api.status import CostStatus, ObservedObjectives
from steelyard_operator.kube import metrics, service_metrics
from steelyard_operator.monitoring.panels import ROWS
from steelyard_operator.monitoring.rules import RECORDINGS, rule_groups
from steelyard_operator.planning.balance.signals import Split
from steelyard_operator.planning.measured import Measured
from steelyard_operator.testing import a_service
from steelyard_operator.testing.prometheus import Prometheus, prometheus
from steelyard_runtime.testing.processes import fetch, free_port, wait_for
from steelyard_runtime.testing.services import MODEL_NAME, router_over, smollm2_pair

PANELS = [
    pytest.param(line.expression, id=f"{row.title}: {panel.title} ({line.legend})")
    for row in ROWS
    for panel in row.panels
    for line in panel.lines
]
SCRAPE_SECONDS = 1
PATIENCE_SECONDS = 60.0

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


def operate() -> int:
    """Let the operator's own series say something; returns the port of its page."""
    service = a_service(
        objectives={"ttftMilliseconds": 300, "tpotMilliseconds": 50},
        cost={"acceleratorHourly": "2", "ceilingPerMillionTokens": "9"},
    )
    seen = ObservedObjectives(
        ttft_milliseconds=200, tpot_milliseconds=40, percentile=95, window_seconds=600
    )
    cost = CostStatus(
        per_million_tokens="1.5", per_million_input="1", per_million_output="2", window_seconds=600
    )
    service_metrics.measure_service(service, Measured(seen, cost), Split(1, 1), 5.0)
    metrics.TICKS.labels("Enough").inc()
    metrics.RECONCILES.labels("done").inc()
    metrics.API_REQUESTS.labels("get", "Pod", "200").inc()
    port = free_port()
    start_http_server(port, addr="127.0.0.1", registry=metrics.REGISTRY)
    return port


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that reads a pair of workers, a router and the operator."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed: it is in Debian's package prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    with smollm2_pair(folder, "tcp") as pair, router_over(folder / "router", pair) as router:
        pods = [
            urllib.parse.urlsplit(one.url).netloc for one in (pair.prefill, pair.decode, router)
        ]
        meta = a_service().metadata
        service = {"namespace": meta.namespace, "service": meta.name}
        (folder / "rules.yaml").write_text(yaml.safe_dump(rule_groups()))
        configuration = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": "services", "static_configs": [{"targets": pods, "labels": service}]},
                {
                    "job_name": "operator",
                    "honor_labels": True,
                    "static_configs": [{"targets": [f"127.0.0.1:{operate()}"]}],
                },
            ],
        }
        with prometheus(program, configuration, folder) as found:
            ask(router.url)
            yield found


def ask(url: str) -> None:
    """Send a prompt that is worth a transfer, twice: the second finds its prefix in the cache."""
    prompt = "A steelyard is a balance with two unequal arms and one sliding weight. " * 10
    for _ in range(2):
        body = {"model": MODEL_NAME, "prompt": prompt, "max_tokens": 8, "stream": True}
        fetch(f"{url}/v1/completions", body=body, seconds=120.0)


@pytest.mark.parametrize("expression", PANELS)
def test_a_panel_has_an_answer(reader: Prometheus, expression: str) -> None:
    """Its expression gives at least one series; rates need two readings."""
    wait_for(lambda: reader.query(expression), expression, PATIENCE_SECONDS)


# Of shares of what failed there is no series before something has failed; promtool plays those.
STEADY = [one.name for one in RECORDINGS if "latency" in one.name]


@pytest.mark.parametrize("name", STEADY)
def test_a_recording_has_values(reader: Prometheus, name: str) -> None:
    """What alerts are made from is there."""
    wait_for(lambda: reader.query(name), name, PATIENCE_SECONDS)

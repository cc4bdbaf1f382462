"""Every change of a service and every loss of a part, under traffic, with no failed request."""

import json
import shutil
from collections.abc import Callable

import pytest

from harness.clusters import Cluster
from harness.kubectl import KubectlError, wait_for
from harness.monitoring import watch_with
from harness.scenarios import SCENARIOS
from harness.service import RESOURCE, SAMPLE, Service
from harness.world import Scenario, World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
Play = Callable[..., None]

NOTHING = Scenario("apply", lambda world: world.traffic.wait_open())


def test_an_applied_sample_serves(cluster: Cluster, service: Service, play: Play) -> None:
    """`kubectl apply` of the sample gives an endpoint that answers, and `kubectl get` shows it."""
    play(NOTHING)

    kubectl = cluster.kubectl
    kubectl("wait", "--for=condition=Ready", f"{RESOURCE}/{service.name}", "--timeout=5s")
    titles, values = (line.split() for line in kubectl("get", "sis").splitlines()[:2])
    assert titles == ["NAME", "READY", "PREFILL", "DECODE", "TTFT", "TPOT", "$/MTOK", "URL", "AGE"]
    assert values[:4] == [SAMPLE.stem, "True", "1/1", "1/1"]
    assert service.read()["status"]["url"].startswith(f"http://{service.name}")


REFUSED = {
    "replicas and a range": (
        {"decode": {"replicas": 1, "minReplicas": 1}},
        "`replicas` may not be given with `minReplicas`, `maxReplicas` or `initialReplicas`",
    ),
    "a rollout that cannot move": (
        {"rollout": {"maxUnavailable": 0, "maxSurge": 0}},
        "`maxUnavailable` and `maxSurge` must not both be 0",
    ),
    "a draft without its method": (
        {"speculation": {"draft": {"model": {"uri": "hf://org/draft"}}}},
        "`draft` may not be given unless `method` is 'DraftModel'",
    ),
    "an unknown backend": (
        {"runtime": {"backend": "Other"}},
        'Unsupported value: "Other": supported values: "Native", "VLLM"',
    ),
}


def test_invalid_resources_are_refused(
    cluster: Cluster, without_traffic: Callable[[str], None]
) -> None:
    """`kubectl apply` says in a sentence what is allowed, and nothing is stored."""
    for spec, sentence in REFUSED.values():
        document = {
            "apiVersion": "steelyard.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": "refused"},
            "spec": {"model": {"uri": "hf://org/name"}, **spec},
        }
        with pytest.raises(KubectlError) as refused:
            cluster.kubectl("apply", "--filename", "-", stdin=json.dumps(document))
        assert sentence in str(refused.value)
    assert "refused" not in cluster.kubectl("get", RESOURCE, "--output", "name")
    without_traffic("invalid resources")


@pytest.mark.usefixtures("ground")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_no_request_fails(cluster: Cluster, play: Play, scenario: Scenario) -> None:
    """Streams that are open during the scenario end with the right text, and so do new ones."""
    if scenario.own_cluster and not cluster.kind:
        pytest.skip("needs a cluster of its own: --cluster=kind")
    if scenario.nodes > len(cluster.nodes):
        pytest.skip(f"needs {scenario.nodes} nodes")

    play(scenario)


@pytest.mark.usefixtures("ground")
def test_prometheus_has_an_answer_for_every_panel(play: Play) -> None:
    """It finds the pods as the PodMonitors say, and the dashboard shows something everywhere."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed: it is in Debian's package prometheus")

    play(Scenario("monitoring", lambda world: watch_with(program, world)))


def test_deleting_lets_streams_end(cluster: Cluster, service: Service, play: Play) -> None:
    """`kubectl delete` drains: open streams end with the right text, then nothing is left."""

    def delete(world: World) -> None:
        world.victim("decode")
        world.traffic.let_end()  # A new request to a service that is deleted is no failure of it,
        world.traffic.wait_begun()  # nor is one that no decode worker has begun.
        world.kubectl("delete", RESOURCE, service.name, "--timeout=120s", timeout=150)

        def gone() -> bool:
            kinds = "pods,services,deployments,poddisruptionbudgets,secrets,controllerrevisions"
            return not world.kubectl.items(kinds, service.selector)

        wait_for("the end of everything that the service had", gone, seconds=120)

    play(Scenario("delete", delete))


def test_the_operator_was_forbidden_nothing(
    cluster: Cluster, without_traffic: Callable[[str], None]
) -> None:
    """In all of the above its Role was enough, says the API server's audit log."""
    if not cluster.kind:
        pytest.skip("the audit log is read on a cluster of our own: --cluster=kind")
    requests = cluster.operator_requests()
    granted = {what for what, code in requests if code not in (401, 403)}

    assert "create pods" in granted, "the operator made a worker, and the log has nothing of it"
    # An API server that has just started forbids what its copy of the Roles does not have yet.
    assert {what for what, code in requests if code == 403} <= granted
    without_traffic("audit log")

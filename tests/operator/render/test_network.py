"""Who reaches which port, by an evaluator of the rendered NetworkPolicies."""

from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.render.children import children
from steelyard_operator.render.labels import labels, role_labels
from steelyard_operator.render.owner import Owner
from steelyard_operator.settings import Settings

SETTINGS = Settings(operator_namespace="system")


def pod(namespace: str, of: dict[str, str], **namespace_labels: str) -> dict[str, Any]:
    """A pod of a namespace with some labels."""
    return {"namespace": namespace, "labels": of, "namespace_labels": namespace_labels}


PODS = {
    "router": pod("team", labels("s", "router")),
    "prefill": pod("team", labels("s", "worker") | role_labels(Role.PREFILL)),
    "decode": pod("team", labels("s", "worker") | role_labels(Role.DECODE)),
    "draining": pod("team", labels("s", "worker")),
    "router of another service": pod("team", labels("t", "router")),
    "worker of another service": pod("team", labels("t", "worker")),
    "its namesake elsewhere": pod("elsewhere", labels("s", "worker")),
    "client": pod("team", {"app": "shop"}),
    "operator": pod("system", {"app.kubernetes.io/name": "steelyard-operator"}),
    "scraper": pod("monitoring", {"app": "prometheus"}, **{"steelyard.dev/scrape": "enabled"}),
}
OWN = {"prefill", "decode", "draining"}
EVERYBODY = set(PODS)
REACHED_BY = {
    ("prefill", 8000): {"router", "operator", "scraper"},
    ("prefill", 8001): {"operator"},
    ("prefill", 5600): OWN,
    ("prefill", 5610): OWN,
    ("prefill", 5649): OWN,
    ("prefill", 5650): set(),
    ("draining", 8000): {"router", "operator", "scraper"},
    ("draining", 5600): OWN,
    ("decode", 8001): {"operator"},
    ("decode", 22): set(),
    ("router", 8080): EVERYBODY,
    ("router", 9000): set(),
    ("client", 8000): EVERYBODY,
}


@pytest.mark.parametrize(
    ("where", "allowed"),
    REACHED_BY.items(),
    ids=[f"{target}:{port}" for target, port in REACHED_BY],
)
def test_a_port_is_reached_by_those_who_need_it(
    network: Any, a_service: Any, owner: Owner, where: tuple[str, int], allowed: set[str]
) -> None:
    """Role labels make no difference, and a pod of nobody's service stays as it was."""
    rendered = children(owner, a_service(), SETTINGS, min_available=0)
    cluster = network([one for one in rendered if one["kind"] == "NetworkPolicy"])

    target, port = where
    reached = {name for name, pod in PODS.items() if cluster.allows(pod, PODS[target], port)}

    assert reached == allowed

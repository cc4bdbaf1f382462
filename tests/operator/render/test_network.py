"""Who reaches which port, by an evaluator of the rendered NetworkPolicies."""

from dataclasses import replace
from typing import Any

import pytest

from steelyard_operator.api.names import Role
from steelyard_operator.render.children import children
from steelyard_operator.render.labels import labels, role_labels
from steelyard_operator.render.owner import Owner
from steelyard_operator.settings import Settings

SETTINGS = Settings(operator_namespace="system")
OPERATOR = {"app.kubernetes.io/name": "steelyard-operator"}


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
    "operator": pod("system", OPERATOR),
    "neighbour of the operator": pod("system", {"app": "x"}),
    "worker beside the operator": pod("system", labels("s", "worker")),
    "false operator beside the service": pod("team", OPERATOR),
    "operator before it moved": pod("former", OPERATOR),
    "neighbour of the former operator": pod("former", {"app": "x"}),
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


MOVING = {
    ("prefill", 8000): {"router", "operator", "operator before it moved", "scraper"},
    ("decode", 8001): {"operator", "operator before it moved"},
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
    assert reaching(network, a_service(), owner, SETTINGS, where) == allowed


@pytest.mark.parametrize(("where", "allowed"), MOVING.items(), ids=map(str, MOVING))
def test_both_operators_reach_workers_while_the_operator_moves(
    network: Any, a_service: Any, owner: Owner, where: tuple[str, int], allowed: set[str]
) -> None:
    """The pods of the old one too, and nothing else of its namespace."""
    moving = replace(SETTINGS, former_operator_namespace="former")

    assert reaching(network, a_service(), owner, moving, where) == allowed


@pytest.mark.parametrize("port", [8000, 8001])
def test_pods_that_share_a_namespace_with_the_operator_and_the_service_reach_no_worker(
    network: Any, a_service: Any, owner: Owner, port: int
) -> None:
    """An installation inside the served namespace: the operator's pods alone are the operator."""
    beside = Settings(operator_namespace=owner.namespace)

    reached = reaching(network, a_service(), owner, beside, ("decode", port))

    # Whoever may create pods with the operator's label there could create any pod.
    assert reached - {"router", "scraper"} == {"false operator beside the service"}


def reaching(
    network: Any, service: Any, owner: Owner, settings: Settings, where: tuple[str, int]
) -> set[str]:
    """Return whose connections a port takes."""
    rendered = children(owner, service, settings, min_available=0)
    cluster = network([one for one in rendered if one["kind"] == "NetworkPolicy"])
    target, port = where
    return {name for name, pod in PODS.items() if cluster.allows(pod, PODS[target], port)}

"""PodDisruptionBudgets: how many pods a node drain leaves."""

from typing import Any

from steelyard_operator.api.names import ROUTER, WORKER
from steelyard_operator.render.labels import metadata, selector
from steelyard_operator.render.names import router_name, workers_name
from steelyard_operator.render.owner import Owner


def worker_budget(owner: Owner, min_available: int) -> dict[str, Any]:
    """Return the budget of all workers.

    One for both roles, because two budgets on one pod refuse every eviction; an integer, because
    with a custom resource as the pods' controller Kubernetes can compute nothing else.
    """
    return _budget(owner, workers_name(owner.name), WORKER, {"minAvailable": min_available})


def router_budget(owner: Owner) -> dict[str, Any]:
    """Return the budget of the routers: one at a time."""
    return _budget(owner, router_name(owner.name), ROUTER, {"maxUnavailable": 1})


def _budget(owner: Owner, name: str, component: str, bound: dict[str, int]) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(owner, name, component),
        "spec": {
            **bound,
            "selector": {"matchLabels": selector(owner.name, component)},
            # A pod that does not serve is no reason to keep a node.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }

"""NetworkPolicies: who reaches which port of a service's pods.

They select by service and component, which never change; a role label does. The operator's own pods
are meant, not its namespace: services may live there, too. What pods call is not limited. Where the
cluster's network does not enforce policies, they are only words.
"""

from typing import Any

from steelyard_operator.api.names import (
    NAME_LABEL,
    NAMESPACE_NAME_LABEL,
    OPERATOR,
    ROUTER,
    SCRAPE_LABEL,
    WORKER,
)
from steelyard_operator.render import ports
from steelyard_operator.render.labels import metadata, selector
from steelyard_operator.render.names import router_name, workers_name
from steelyard_operator.render.owner import Owner
from steelyard_operator.settings import Settings


def worker_policy(owner: Owner, settings: Settings) -> dict[str, Any]:
    """Return who reaches the workers."""
    operators = _operators(settings)
    scrapers = _namespace(SCRAPE_LABEL, "enabled")
    kv = {"port": ports.KV_DATA_FIRST, "endPort": ports.KV_DATA_LAST, "protocol": "TCP"}
    rules = [
        _rule([_pods(owner, ROUTER), *operators, scrapers], [_port(ports.SERVING)]),
        _rule(operators, [_port(ports.ADMIN)]),
        _rule([_pods(owner, WORKER)], [_port(ports.KV), kv]),
    ]
    return _policy(owner, workers_name(owner.name), WORKER, rules)


def router_policy(owner: Owner) -> dict[str, Any]:
    """Return who reaches the routers: everybody, on the one port."""
    rules = [{"ports": [_port(ports.ROUTER)]}]
    return _policy(owner, router_name(owner.name), ROUTER, rules)


def _policy(owner: Owner, name: str, component: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, name, component),
        "spec": {
            "podSelector": {"matchLabels": selector(owner.name, component)},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    }


def _rule(peers: list[dict[str, Any]], allowed: list[dict[str, Any]]) -> dict[str, Any]:
    return {"from": peers, "ports": allowed}


def _pods(owner: Owner, component: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": selector(owner.name, component)}}


def _operators(settings: Settings) -> list[dict[str, Any]]:
    """The operator's pods; also those that it had elsewhere, while it moves."""
    namespaces = (settings.operator_namespace, settings.former_operator_namespace)
    return [
        {
            **_namespace(NAMESPACE_NAME_LABEL, namespace),
            "podSelector": {"matchLabels": {NAME_LABEL: OPERATOR}},
        }
        for namespace in dict.fromkeys(filter(None, namespaces))
    ]


def _namespace(label: str, value: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {label: value}}}


def _port(number: int) -> dict[str, Any]:
    return {"port": number, "protocol": "TCP"}

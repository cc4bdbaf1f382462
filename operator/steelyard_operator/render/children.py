"""Every object of a service that is applied again and again: all but pods, revisions, the token."""

from collections.abc import Mapping
from typing import Any

from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.render.disruption import router_budget, worker_budget
from steelyard_operator.render.gateway import http_route
from steelyard_operator.render.network import router_policy, worker_policy
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.router import router_deployment
from steelyard_operator.render.services import role_service, router_service
from steelyard_operator.settings import Settings


def children(
    owner: Owner,
    service: InferenceService,
    settings: Settings,
    *,
    min_available: int,
    router: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], ...]:
    """Return the objects in the order in which they are applied: policies before what they guard.

    Args:
        owner: the resource.
        service: the resource.
        settings: the operator's.
        min_available: how many workers an eviction must leave.
        router: the router's Deployment as it is now, if there is one.
    """
    found = [
        worker_policy(owner, settings),
        router_policy(owner),
        role_service(owner, Role.PREFILL),
        role_service(owner, Role.DECODE),
        router_service(owner, service),
        worker_budget(owner, min_available),
        router_budget(owner),
        router_deployment(owner, service, settings, router),
    ]
    if service.spec.router.gateway is not None:
        found.append(
            http_route(owner, service.spec.router.gateway, service.spec.router.service.port)
        )
    return tuple(found)

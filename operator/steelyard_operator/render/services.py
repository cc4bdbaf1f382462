"""Services: a headless one for each role, whose endpoints are its workers, and the router's."""

from typing import Any

from steelyard_operator.api.names import ROUTER, SERVICE_LABEL, WORKER, Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.render import ports
from steelyard_operator.render.labels import metadata, role_labels, selector
from steelyard_operator.render.names import role_service_name, router_name
from steelyard_operator.render.owner import Owner


def role_service(owner: Owner, role: Role) -> dict[str, Any]:
    """Return the headless Service of PREFILL or DECODE; a drained worker leaves it at once."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, role_service_name(owner.name, role), WORKER),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": {SERVICE_LABEL: owner.name, **role_labels(role)},
            "ports": [_port(ports.SERVING)],
        },
    }


def router_service(owner: Owner, service: InferenceService) -> dict[str, Any]:
    """Return the Service that clients call."""
    wanted = service.spec.router.service
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(owner, router_name(owner.name), ROUTER),
        "spec": {
            "type": wanted.type.value,
            "selector": selector(owner.name, ROUTER),
            "ports": [_port(wanted.port)],
        },
    }


def _port(number: int) -> dict[str, Any]:
    return {"name": "http", "port": number, "targetPort": "http", "protocol": "TCP"}

"""The HTTPRoute that leads from a Gateway to the router, where the resource asks for one."""

from typing import Any

from steelyard_operator.api.names import ROUTER
from steelyard_operator.api.v1alpha1 import GatewaySpec
from steelyard_operator.render.labels import metadata
from steelyard_operator.render.names import router_name
from steelyard_operator.render.owner import Owner


def http_route(owner: Owner, gateway: GatewaySpec, port: int) -> dict[str, Any]:
    """Return the route of all paths to the router's Service.

    Args:
        owner: the resource.
        gateway: where it hangs.
        port: of the router's Service.
    """
    parent = gateway.parent_ref.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(owner, router_name(owner.name), ROUTER),
        "spec": {
            "parentRefs": [parent],
            "rules": [{"backendRefs": [{"name": router_name(owner.name), "port": port}]}],
        },
    }

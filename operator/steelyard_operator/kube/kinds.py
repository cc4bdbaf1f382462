"""The kinds of objects that the operator handles, and where the API server has them. Data only."""

from dataclasses import dataclass
from typing import Any

from steelyard_operator.api import names


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object, as it is found in the API server's paths."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Return the path of an object, or of all in a namespace, or of all there are."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        where = f"/namespaces/{namespace}" if namespace else ""
        parts = [root + where, self.plural, name, subresource]
        return "/".join(part for part in parts if part)


POD = Kind("", "v1", "Pod", "pods")
SERVICE = Kind("", "v1", "Service", "services")
SECRET = Kind("", "v1", "Secret", "secrets")
DEPLOYMENT = Kind("apps", "v1", "Deployment", "deployments")
CONTROLLER_REVISION = Kind("apps", "v1", "ControllerRevision", "controllerrevisions")
BUDGET = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
HTTP_ROUTE = Kind("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
EVENT = Kind("events.k8s.io", "v1", "Event", "events")
INFERENCE_SERVICE = Kind(names.GROUP, names.VERSION, names.KIND, names.PLURAL)

# What is server-side applied for a service, by (apiVersion, kind).
CHILDREN = (SERVICE, DEPLOYMENT, BUDGET, POLICY, HTTP_ROUTE)
_BY_TYPE = {(kind.api_version, kind.kind): kind for kind in CHILDREN}


def kind_of(raw: dict[str, Any]) -> Kind:
    """Return the kind of a rendered child.

    Raises:
        KeyError: it is not among CHILDREN, which are all that the operator's Role allows.
    """
    return _BY_TYPE[raw["apiVersion"], raw["kind"]]

"""Names of the API: group, version, kind and where they are written. String constants only."""

from enum import StrEnum

GROUP = "steelyard.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "InferenceService"
PLURAL = "inferenceservices"
SHORT_NAME = "sis"
CATEGORY = "steelyard"

# Labels. SERVICE is on every object of a service; a worker that serves a role carries its label
# with the value SERVES, and neither while it drains; Services select by these alone.
SERVICE_LABEL = f"{GROUP}/service"
PREFILL_LABEL = f"{GROUP}/prefill"
DECODE_LABEL = f"{GROUP}/decode"
REVISION_LABEL = f"{GROUP}/revision"
FINGERPRINT_LABEL = f"{GROUP}/kv-fingerprint"  # 16 hex digits of the worker's fingerprint
COMPONENT_LABEL = "app.kubernetes.io/component"  # WORKER or ROUTER; never changes
NAME_LABEL = "app.kubernetes.io/name"
NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"  # set by Kubernetes on each namespace
WORKER = "worker"
ROUTER = "router"
OPERATOR = "steelyard-operator"  # the NAME_LABEL of the operator's own pods
SERVES = "true"

# On the resource: which operator is responsible where several are installed.
OPERATOR_CLASS_LABEL = f"{GROUP}/operator-class"

# On a namespace whose pods may read the workers' metrics: "enabled".
SCRAPE_LABEL = f"{GROUP}/scrape"

# Annotations of a worker's pod.
ATTEMPT_ANNOTATION = f"{GROUP}/attempt"  # how many pods failed in a row in this slot before
DRAINING_SINCE_ANNOTATION = (
    f"{GROUP}/draining-since"  # RFC 3339; set with the removal of the labels
)

# On the router's Deployment: the template that the operator gave it, as JSON, and what from.
TEMPLATE_ANNOTATION = f"{GROUP}/template"

# On a ControllerRevision: what shows that an operator with our master key wrote its content.
SEAL_ANNOTATION = f"{GROUP}/seal"

# On every object that is applied: the hash of what was applied, so that a new operator need not
# apply all again.
APPLIED_ANNOTATION = f"{GROUP}/applied"

# The containers of a worker's pod, as `podTemplate` names them: the engine, and the init container
# that fetches the checkpoint.
ENGINE_CONTAINER = "engine"
MODEL_CONTAINER = "model"
CONTAINERS = (ENGINE_CONTAINER, MODEL_CONTAINER)
ROUTER_CONTAINER = "router"

FIELD_MANAGER = "steelyard-operator"

# The name is a prefix of the pods' names, which carry a budget slot (`<service>-<n>`).
MAX_NAME_CHARACTERS = 40


class Role(StrEnum):
    """What a worker does; CamelCase as the API writes it."""

    PREFILL = "Prefill"
    DECODE = "Decode"
    BOTH = "Both"

    @property
    def wire(self) -> str:
        """The role as command lines, `/state` and metrics write it (docs/contract.md)."""
        return self.value.lower()

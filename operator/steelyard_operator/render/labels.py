"""Labels of what a service has, and the selectors that find it."""

from collections.abc import Mapping
from typing import Any

from steelyard_operator.api.names import (
    COMPONENT_LABEL,
    DECODE_LABEL,
    FIELD_MANAGER,
    NAME_LABEL,
    PREFILL_LABEL,
    SERVES,
    SERVICE_LABEL,
    Role,
)
from steelyard_operator.render.owner import Owner

LABEL_OF = {Role.PREFILL: PREFILL_LABEL, Role.DECODE: DECODE_LABEL}


def labels(service: str, component: str) -> dict[str, str]:
    """Return the labels of an object of a service."""
    return {
        SERVICE_LABEL: service,
        COMPONENT_LABEL: component,
        NAME_LABEL: "steelyard",
        "app.kubernetes.io/instance": service,
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
    }


def selector(service: str, component: str) -> dict[str, str]:
    """Return what selects the pods of a component, whatever role they have at the moment."""
    return {SERVICE_LABEL: service, COMPONENT_LABEL: component}


def role_labels(role: Role) -> dict[str, str]:
    """Return the labels of a worker that serves a role."""
    roles = tuple(LABEL_OF) if role is Role.BOTH else (role,)
    return {LABEL_OF[one]: SERVES for one in roles}


def metadata(
    owner: Owner, name: str, component: str, annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the metadata of an object that a service owns."""
    found: dict[str, Any] = {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels(owner.name, component),
        "ownerReferences": [owner.reference()],
    }
    if annotations:
        found["annotations"] = dict(annotations)
    return found

"""Which other objects of its namespace a resource names: Secrets, claims, accounts.

A field says by a mark in its type that it holds such a name, so that one walk finds them all. What
is allowed is decided elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from pydantic import BaseModel

from steelyard_operator.api.meta import Names
from steelyard_operator.api.v1alpha1 import InferenceService


class ObjectKind(Enum):
    """The kind of an object that is named."""

    SECRET = "Secret"  # noqa: S105  # a kind
    CLAIM = "PersistentVolumeClaim"
    SERVICE_ACCOUNT = "ServiceAccount"


KIND_OF = {
    Names.SECRET: ObjectKind.SECRET,
    Names.CHECKPOINT: ObjectKind.CLAIM,
    Names.SERVICE_ACCOUNT: ObjectKind.SERVICE_ACCOUNT,
}


@dataclass(frozen=True, slots=True)
class Reference:
    """One name of another object in a resource."""

    path: str
    """The field, as in `spec.model.credentialsSecretRef.name`."""
    kind: ObjectKind
    name: str


def references(service: InferenceService) -> Iterator[Reference]:
    """Yield every object that a resource names, in the order of its fields."""
    yield from _below(service.spec, "spec")


def _below(value: object, path: str) -> Iterator[Reference]:
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _below(one, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _below(one, f"{path}.{key}")
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            found, where = getattr(value, name), f"{path}.{field.alias}"
            for mark in field.metadata:
                if isinstance(mark, Names) and (named := _name(mark, found)) is not None:
                    yield Reference(where, KIND_OF[mark], named)
            yield from _below(found, where)


def _name(mark: Names, found: object) -> str | None:
    if not isinstance(found, str):
        return None
    if mark is not Names.CHECKPOINT:
        return found
    scheme, _, rest = found.partition("://")
    return rest.partition("/")[0] if scheme == "pvc" else None

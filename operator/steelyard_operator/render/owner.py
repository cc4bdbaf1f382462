"""Who owns what is rendered: the resource, by name and uid."""

from dataclasses import dataclass
from typing import Any

from steelyard_operator.api.names import API_VERSION, KIND


@dataclass(frozen=True, slots=True)
class Owner:
    """One InferenceService on an API server."""

    name: str
    namespace: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """Return the owner reference: deleted with the resource, and `kubectl drain` accepts it."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }

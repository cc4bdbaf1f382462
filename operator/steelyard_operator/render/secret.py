"""The Secret with a service's token. It is created and never read."""

from typing import Any

from steelyard_operator.api.names import WORKER
from steelyard_operator.render.labels import metadata
from steelyard_operator.render.names import token_secret_name
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.volumes import TOKEN_KEY


def token_secret(owner: Owner, token: str) -> dict[str, Any]:
    """Return the Secret that workers mount."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(owner, token_secret_name(owner.name, owner.uid), WORKER),
        "type": "Opaque",
        "immutable": True,  # The token is the same for ever, and kubelets need not watch it.
        "stringData": {TOKEN_KEY: token},
    }

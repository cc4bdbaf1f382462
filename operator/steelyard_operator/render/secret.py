"""The Secrets of a service: its token, and the key of its workers. Created and never read."""

from typing import Any

from steelyard_operator.api.names import WORKER
from steelyard_operator.render.labels import metadata
from steelyard_operator.render.names import token_secret_name, worker_key_secret_name
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.volumes import TOKEN_KEY, WORKER_KEY_KEY


def token_secret(owner: Owner, token: str) -> dict[str, Any]:
    """Return the Secret that workers mount: it opens admin ports and signs the side channel."""
    return _secret(owner, token_secret_name(owner.name, owner.uid), {TOKEN_KEY: token})


def worker_key_secret(owner: Owner, key: str) -> dict[str, Any]:
    """Return the Secret that routers and workers mount: it opens the workers' serving port."""
    return _secret(owner, worker_key_secret_name(owner.name, owner.uid), {WORKER_KEY_KEY: key})


def _secret(owner: Owner, name: str, content: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(owner, name, WORKER),
        "type": "Opaque",
        "immutable": True,  # It is the same for ever, and kubelets need not watch it.
        "stringData": content,
    }

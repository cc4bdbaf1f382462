"""Volumes of pods and where they are mounted."""

from dataclasses import dataclass
from typing import Any

TMP = "/tmp"  # noqa: S108  # a volume of the container's own, not the machine's
SHARED_MEMORY = "/dev/shm"  # noqa: S108  # the same
TOKEN_FOLDER = "/var/run/steelyard/token"  # noqa: S105  # a path
TOKEN_VOLUME = "token"  # noqa: S105  # the name of a volume
TOKEN_KEY = "token"  # noqa: S105  # a file's name
TOKEN_FILE = f"{TOKEN_FOLDER}/{TOKEN_KEY}"
LABELS_FOLDER = "/var/run/steelyard/pod"
LABELS_FILE = f"{LABELS_FOLDER}/labels"
WORKER_KEY_FOLDER = "/var/run/steelyard/worker-key"
WORKER_KEY_VOLUME = "worker-key"
WORKER_KEY_KEY = "key"
WORKER_KEY_FILE = f"{WORKER_KEY_FOLDER}/{WORKER_KEY_KEY}"
API_KEYS_FOLDER = "/var/run/steelyard/api-keys"
API_KEYS_FILE = f"{API_KEYS_FOLDER}/keys"

# Owner and the pod's group may read it; nobody else.
SECRET_MODE = 0o440


@dataclass(frozen=True, slots=True)
class Mounted:
    """A volume and its place in a container."""

    volume: dict[str, Any]
    path: str
    read_only: bool = True

    def mount(self, *, read_only: bool | None = None) -> dict[str, Any]:
        """Return the container's side of it."""
        found: dict[str, Any] = {"name": self.volume["name"], "mountPath": self.path}
        if self.read_only if read_only is None else read_only:
            found["readOnly"] = True
        return found


def tmp() -> Mounted:
    """Everything that a container writes: its root is read-only."""
    return Mounted({"name": "tmp", "emptyDir": {}}, TMP, read_only=False)


def shared_memory() -> Mounted:
    """Room for ranks of one worker to talk; a container's own is 64 MiB."""
    volume = {"name": "shm", "emptyDir": {"medium": "Memory"}}
    return Mounted(volume, SHARED_MEMORY, read_only=False)


def token() -> Mounted:
    """The service's token; which Secret it is in is known when a pod is made (`with_token`)."""
    return secret_file(TOKEN_VOLUME, "", TOKEN_KEY, TOKEN_FILE)


def worker_key(secret: str) -> Mounted:
    """The key of the workers' serving port."""
    return secret_file(WORKER_KEY_VOLUME, secret, WORKER_KEY_KEY, WORKER_KEY_FILE)


def with_token(volumes: list[dict[str, Any]], secret: str) -> list[dict[str, Any]]:
    """Return a pod's volumes with the Secret that its token is in."""
    return [
        {**volume, "secret": {**volume["secret"], "secretName": secret}}
        if volume["name"] == TOKEN_VOLUME and "secret" in volume
        else volume
        for volume in volumes
    ]


def secret_file(volume: str, secret: str, key: str, path: str) -> Mounted:
    """One key of a Secret as a file."""
    folder, _, name = path.rpartition("/")
    source = {
        "secretName": secret,
        "defaultMode": SECRET_MODE,
        "items": [{"key": key, "path": name}],
    }
    return Mounted({"name": volume, "secret": source}, folder)


def pod_labels() -> Mounted:
    """The pod's own labels, as they are at each moment."""
    item = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    return Mounted({"name": "pod", "downwardAPI": {"items": [item]}}, LABELS_FOLDER)

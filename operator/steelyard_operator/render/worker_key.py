"""The key of the workers' serving port: routers show it, workers ask for it.

It is no part of a worker's template. A worker asks for the key only where every router of its
service has it, which is known when its pod is made: routers of an older operator go on without, and
an upgrade restarts none.
"""

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

from steelyard_operator.api.names import ENGINE_CONTAINER, TEMPLATE_ANNOTATION
from steelyard_operator.backends.registry import started_by
from steelyard_operator.render.volumes import (
    WORKER_KEY_FILE,
    WORKER_KEY_KEY,
    WORKER_KEY_VOLUME,
    worker_key,
)


def with_worker_key(spec: Mapping[str, Any], secret: str) -> dict[str, Any]:
    """Return a pod's specification whose engine asks for the key in a Secret.

    An engine that no backend starts stays as it is.
    """
    found = copy.deepcopy(dict(spec))
    for container in found["containers"]:
        engine = started_by(container.get("command", ()))
        if container["name"] != ENGINE_CONTAINER or engine is None:
            continue
        if engine.api_key_variable is not None:
            reference = {"name": secret, "key": WORKER_KEY_KEY}
            variable = {"valueFrom": {"secretKeyRef": reference}}
            container["env"] = [
                *(one for one in container["env"] if one["name"] != engine.api_key_variable),
                {"name": engine.api_key_variable, **variable},
            ]
            continue
        # First, so that what a user adds stands behind it as behind every other flag.
        container["args"] = [engine.api_key_flag, WORKER_KEY_FILE, *container.get("args", ())]
        mounted = worker_key(secret)
        container["volumeMounts"] = [*container.get("volumeMounts", ()), mounted.mount()]
        found["volumes"] = [*found.get("volumes", ()), mounted.volume]
    return found


def key_secret(spec: Mapping[str, Any]) -> str | None:
    """Return the name of the Secret whose key a pod mounts; None where it mounts none."""
    for volume in spec.get("volumes") or ():
        if volume.get("name") == WORKER_KEY_VOLUME:
            name = (volume.get("secret") or {}).get("secretName")
            return str(name) if name else None
    return None


def routers_key(router: Mapping[str, Any] | None, pods: Iterable[str | None]) -> str | None:
    """Return the Secret whose key every router of a service shows, if there is such a one.

    Args:
        router: the routers' Deployment, as it is kept: its annotations say its template.
        pods: of each router's pod that there is, those that end included, the Secret it mounts.
    """
    kept = kept_template(router)
    secret = key_secret(kept["spec"]) if kept else None
    return secret if all(one == secret for one in pods) else None


def kept_template(live: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the template that the routers' Deployment was given; None where none can be read."""
    meta = (live or {}).get("metadata") or {}
    text = (meta.get("annotations") or {}).get(TEMPLATE_ANNOTATION)
    try:
        kept = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return kept if isinstance(kept, dict) and isinstance(kept.get("spec"), dict) else None

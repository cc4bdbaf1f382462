"""A backend's container as Kubernetes writes it: probes, environment, end."""

from collections.abc import Iterable, Mapping
from typing import Any

from steelyard_operator.api.meta import EnvironmentVariable
from steelyard_operator.backends.base import Container, Probe, Sleep
from steelyard_operator.render.security import container_security
from steelyard_operator.render.volumes import TMP, Mounted

WORDS_OF_COMMAND = 2
"""Program and sub-command; the rest are arguments."""

POD_IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def container(
    name: str,
    rendered: Container,
    *,
    image: str,
    pull_policy: str,
    ports: Mapping[str, int],
    mounts: Iterable[Mounted],
    resources: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a container of a pod.

    Args:
        name: its name.
        rendered: what its backend says.
        image: its image.
        pull_policy: of the image.
        ports: by name.
        mounts: beside /tmp, which every container has.
        resources: requests and limits.
    """
    command = list(rendered.command)
    found: dict[str, Any] = {
        "name": name,
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": command[:WORDS_OF_COMMAND],
        "args": command[WORDS_OF_COMMAND:],
        # The address stands first: what follows may refer to it.
        "env": [POD_IP, *environment({"HOME": TMP} | rendered.environment)],
        "ports": [
            {"name": port, "containerPort": number, "protocol": "TCP"}
            for port, number in ports.items()
        ],
        "startupProbe": probe(rendered.startup),
        "readinessProbe": probe(rendered.readiness),
        "livenessProbe": probe(rendered.liveness),
        "lifecycle": {"preStop": _pre_stop(rendered)},
        "securityContext": container_security(),
        "volumeMounts": [mounted.mount() for mounted in mounts],
    }
    if resources:
        found["resources"] = dict(resources)
    return found


def environment(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return variables as a list."""
    return [{"name": name, "value": value} for name, value in values.items()]


def with_environment(
    found: Mapping[str, Any], added: Iterable[EnvironmentVariable]
) -> dict[str, Any]:
    """Return a container with variables added; one of the same name is replaced in its place."""
    merged = {variable["name"]: variable for variable in found["env"]}
    merged |= {one.name: {"name": one.name, "value": one.value} for one in added}
    return {**found, "env": list(merged.values())}


def probe(rendered: Probe) -> dict[str, Any]:
    """Return an HTTP probe."""
    return {
        "httpGet": {"path": rendered.path, "port": rendered.port},
        "periodSeconds": rendered.period_seconds,
        "failureThreshold": rendered.failure_threshold,
        "timeoutSeconds": rendered.timeout_seconds,
    }


def _pre_stop(rendered: Container) -> dict[str, Any]:
    if isinstance(rendered.pre_stop, Sleep):
        return {"sleep": {"seconds": rendered.pre_stop.seconds}}
    return {"exec": {"command": list(rendered.pre_stop.words)}}

"""What a service may say about the container that fetches its checkpoint, and what it may not.

That container may hold a Secret and may write to the cache that services share. So it always runs
the operator's own image, sees an allowed list of the service's variables, and carries credentials
only to hosts that the operator's administrator lists. A template of an earlier operator is held to
the same when a pod is made from it.
"""

import posixpath
import re
from collections.abc import Mapping
from typing import Any

from steelyard_operator.api.names import MODEL_CONTAINER, Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.credential_hosts import (
    SETTING,
    admits,
    admits_bucket,
    admits_proxy,
)
from steelyard_operator.render.volumes import TMP
from steelyard_operator.settings import Settings

CREDENTIALS_FILE = "/var/run/steelyard/credentials/credentials"
SCHEME = "https://"
HUB = f"{SCHEME}huggingface.co"
ENDPOINTS = {
    "hf": (("HF_ENDPOINT",), HUB),
    # Without one AWS' library chooses; the container checks what it chose.
    "s3": (("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), None),
}
PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"})
CERTIFICATES = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"})
# Parts of the image, which no service can write to.
CERTIFICATE_FOLDERS = ("/etc/", "/usr/")
ALLOWED = frozenset(
    {
        "HF_ENDPOINT",
        "AWS_ENDPOINT_URL_S3",
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_PROFILE",
        "NO_PROXY",
        *PROXIES,
        *CERTIFICATES,
    }
)
# Kubernetes would put another variable's value in its place, a credential's too.
REFERENCE = re.compile(r"\$\(")


def refused_fetch(service: InferenceService, settings: Settings) -> str | None:
    """Say in one sentence why a service's credentials must not leave, if they must not."""
    uri = service.spec.model.uri
    scheme = uri.partition("://")[0]
    if scheme not in ENDPOINTS:
        return None
    if REFERENCE.search(uri):
        return f"`spec.model.uri` is '{uri[:200]}'; it must not have '$('"
    if service.spec.model.credentials_secret_ref is None:
        return None
    for role in (Role.PREFILL, Role.DECODE):
        sentence = _refused(service, settings, role, scheme)
        if sentence is not None:
            return sentence
    return None


def _refused(service: InferenceService, settings: Settings, role: Role, scheme: str) -> str | None:
    hosts = settings.credential_hosts
    said = {name: value for name, value in asked_variables(service, role).items() if value}
    names, default = ENDPOINTS[scheme]
    ends = {name: said[name] for name in names if name in said}
    if not ends and default is not None:
        ends["spec.model.uri"] = default
    admitted = admits_bucket if scheme == "s3" else admits
    wrong = [name for name, address in ends.items() if not admitted(hosts, address)]
    wrong += [n for n in said if n.upper() in PROXIES and not admits_proxy(hosts, said[n])]
    if not wrong:
        return None
    return (
        f"`{wrong[0]}` leads to '{(ends | said)[wrong[0]][:200]}', and what "
        "`spec.model.credentialsSecretRef` names goes only to hosts in the operator's setting "
        f"{SETTING} (now: {', '.join(hosts) or 'none'}); have the host added there, or leave one "
        "of both out"
    )


def asked_variables(service: InferenceService, role: Role) -> dict[str, str]:
    """Return what a service says of the container's environment and may say."""
    workers = service.spec.prefill if role is Role.PREFILL else service.spec.decode
    given = {one.name: one.value for one in service.spec.runtime.env}
    for override in workers.pod_template.spec.containers:
        if override.name == MODEL_CONTAINER:
            given |= {one.name: one.value for one in override.env}
    return {name: value for name, value in given.items() if _is_allowed(name, value)}


def guarded(container: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the container as the operator lets it run.

    Args:
        container: as it was just rendered, or as an earlier operator rendered it.
        settings: the operator's.
    """
    kept = [one for one in container.get("env", []) if _is_kept(one)]
    hosts = {"name": SETTING, "value": ",".join(settings.credential_hosts)}
    return {
        **container,
        "image": settings.worker_image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [{"name": "HOME", "value": TMP}, *kept, hosts],
    }


def guard_pod(spec: dict[str, Any], settings: Settings) -> None:
    """Hold a pod, made from a template that is kept, to what holds now."""
    containers = spec.get("initContainers", [])
    for at, container in enumerate(containers):
        if container["name"] == MODEL_CONTAINER:
            containers[at] = guarded(container, settings)


def _is_kept(variable: Mapping[str, Any]) -> bool:
    name, value = variable["name"], variable.get("value", "")
    if name == "HF_TOKEN":
        return "valueFrom" in variable
    if name == "AWS_SHARED_CREDENTIALS_FILE":
        return bool(value == CREDENTIALS_FILE)
    return _is_allowed(name, value)


def _is_allowed(name: str, value: str) -> bool:
    usual = name if name in ALLOWED else name.upper()
    if usual not in ALLOWED or (usual != name and not usual.endswith("_PROXY")):
        return False
    if usual in CERTIFICATES and not posixpath.normpath(value).startswith(CERTIFICATE_FOLDERS):
        return False
    return REFERENCE.search(value) is None

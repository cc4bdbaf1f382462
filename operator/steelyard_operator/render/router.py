"""The router of a service: its Deployment.

An operator of another version restarts no router: the template that a Deployment was given is
kept in an annotation, and stays as long as the resource asks for the same.
"""

import json
from collections.abc import Mapping
from typing import Any

from steelyard_operator.api.names import (
    REVISION_LABEL,
    ROUTER,
    ROUTER_CONTAINER,
    TEMPLATE_ANNOTATION,
    Role,
)
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import Endpoints, RouterPlacement
from steelyard_operator.backends.router import router
from steelyard_operator.render import ports
from steelyard_operator.render.containers import container
from steelyard_operator.render.labels import labels, metadata, selector
from steelyard_operator.render.names import (
    role_service_name,
    router_name,
    worker_key_secret_name,
)
from steelyard_operator.render.own_secrets import refuse_own_secrets
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.revision import router_hash
from steelyard_operator.render.security import pod_security
from steelyard_operator.render.spread import spread
from steelyard_operator.render.volumes import (
    API_KEYS_FILE,
    WORKER_KEY_FILE,
    secret_file,
    tmp,
    worker_key,
)
from steelyard_operator.render.worker_key import kept_template, key_secret
from steelyard_operator.settings import Settings

# Beyond the drain: preStop and the last bytes of streams.
GRACE_BEYOND_DRAIN_SECONDS = 20

# Enough for a scheduler to spread them; a router's cost is that of the tokens that it passes on.
RESOURCES = {"requests": {"cpu": "100m", "memory": "128Mi"}}


def router_deployment(
    owner: Owner,
    service: InferenceService,
    settings: Settings,
    live: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the router's Deployment.

    Args:
        owner: the resource.
        service: the resource.
        settings: the operator's.
        live: the Deployment as it is now, if there is one.
    """
    name, revision = router_name(owner.name), router_hash(service)
    template = _kept(live, revision) or router_template(
        # Workers that live ask for the key that routers have shown until now: a service that was
        # made again over what it left behind goes on with the old one.
        owner,
        service,
        settings,
        worker_secret=_key_until_now(live),
    )
    annotations = {TEMPLATE_ANNOTATION: json.dumps(template, separators=(",", ":"))}
    meta = metadata(owner, name, ROUTER, annotations)
    meta["labels"] = {**meta["labels"], REVISION_LABEL: revision}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": service.spec.router.replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": selector(owner.name, ROUTER)},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
            },
            "template": template,
        },
    }


def router_template(
    owner: Owner,
    service: InferenceService,
    settings: Settings,
    *,
    worker_secret: str | None = None,
) -> dict[str, Any]:
    """Return the pod template of the routers.

    Args:
        owner: the resource.
        service: the resource.
        settings: the operator's.
        worker_secret: the Secret with the key that they show to workers; the resource's own where
            it is not given.

    Raises:
        UserError: the resource names a Secret of the operator.
    """
    refuse_own_secrets(service, settings)
    spec = service.spec
    worker_secret = worker_secret or worker_key_secret_name(owner.name, owner.uid)
    keys = spec.router.api_keys_secret_ref
    mounts = [tmp(), worker_key(worker_secret)]
    if keys is not None:
        mounts.append(secret_file("api-keys", keys.name, keys.key, API_KEYS_FILE))
    placement = RouterPlacement(
        host="0.0.0.0",  # noqa: S104  # a pod's own address
        port=ports.ROUTER,
        members=Endpoints(
            namespace=owner.namespace,
            prefill_service=role_service_name(owner.name, Role.PREFILL),
            decode_service=role_service_name(owner.name, Role.DECODE),
        ),
        api_keys_file=API_KEYS_FILE if keys is not None else None,
        worker_api_key_file=WORKER_KEY_FILE,
    )
    pod: dict[str, Any] = {
        # Its token reads EndpointSlices; the operator gives it no other right.
        "serviceAccountName": settings.service_account_router,
        "automountServiceAccountToken": True,
        "terminationGracePeriodSeconds": spec.rollout.drain_seconds + GRACE_BEYOND_DRAIN_SECONDS,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [
            container(
                ROUTER_CONTAINER,
                router(service, placement),
                image=settings.router_image,
                pull_policy=settings.image_pull_policy,
                ports={"http": ports.ROUTER},
                mounts=mounts,
                resources=RESOURCES,
            )
        ],
        "volumes": [mounted.volume for mounted in mounts],
    }
    if constraints := spread(settings, selector(owner.name, ROUTER)):
        pod["topologySpreadConstraints"] = constraints
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in settings.image_pull_secrets]
    return {
        "metadata": {
            "labels": labels(owner.name, ROUTER),
            "annotations": {"kubectl.kubernetes.io/default-container": ROUTER_CONTAINER},
        },
        "spec": pod,
    }


def _kept(live: Mapping[str, Any] | None, revision: str) -> dict[str, Any] | None:
    """The template that the live Deployment was given, if that was for the same inputs.

    Not the live template itself: what somebody else changed there is put right.
    """
    meta = live.get("metadata", {}) if live else {}
    if (meta.get("labels") or {}).get(REVISION_LABEL) != revision:
        return None
    return kept_template(live)


def _key_until_now(live: Mapping[str, Any] | None) -> str | None:
    kept = kept_template(live)
    return key_secret(kept["spec"]) if kept else None

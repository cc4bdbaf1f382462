"""The template of a worker's pod: everything but name, slot, role and revision.

No role is in it: name, arguments and environment are the same for both, the engine reads its start
role from the pod's labels. The role only says whose resources and overrides are used, and those
are equal where workers may change their role.
"""

from typing import Any

from steelyard_operator.api.names import ENGINE_CONTAINER, WORKER, Role
from steelyard_operator.api.pods import PodOverrides
from steelyard_operator.api.roles import RoleSpec
from steelyard_operator.api.v1alpha1 import Backend as BackendName
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import Drain, WorkerPlacement
from steelyard_operator.backends.registry import backend
from steelyard_operator.errors import UserError
from steelyard_operator.render import ports
from steelyard_operator.render.containers import container, with_environment
from steelyard_operator.render.fetching import refused_fetch
from steelyard_operator.render.labels import labels, selector
from steelyard_operator.render.own_secrets import refuse_own_secrets
from steelyard_operator.render.resources import container_resources, has_cuda, threads
from steelyard_operator.render.security import pod_security
from steelyard_operator.render.sources import Source, source
from steelyard_operator.render.spread import spread
from steelyard_operator.render.volumes import (
    LABELS_FILE,
    TOKEN_FILE,
    Mounted,
    pod_labels,
    shared_memory,
    tmp,
    token,
)
from steelyard_operator.settings import Settings

# Beyond the drain: preStop, the last bytes of streams, and the end of the processes.
GRACE_BEYOND_DRAIN_SECONDS = 15


def worker_template(service: InferenceService, settings: Settings, role: Role) -> dict[str, Any]:
    """Return the pod template of the workers of a role: `metadata` and `spec`.

    Raises:
        UserError: the resource names a Secret of the operator, or its credentials would go where
            they must not.
    """
    refuse_own_secrets(service, settings)
    spec, name = service.spec, service.metadata.name
    workers = spec.prefill if role is Role.PREFILL else spec.decode
    image = spec.runtime.image or backend(spec.runtime.backend).image(settings)
    native = spec.runtime.backend is BackendName.NATIVE
    refusal = refused_fetch(service, settings)
    if refusal is not None:
        raise UserError(refusal)
    model = source(service, settings, role)
    mounts = [tmp(), *model.mounts, pod_labels()]
    if native:
        mounts.append(token())  # It opens the admin port, and signs the side channel's frames.
    if workers.tensor_parallel > 1:
        mounts.append(shared_memory())
    overrides = workers.pod_template
    pod: dict[str, Any] = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": spec.rollout.drain_seconds + GRACE_BEYOND_DRAIN_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [
            _engine(service, settings, workers, image=image, model=model, mounts=mounts)
        ],
        "volumes": [mounted.volume for mounted in (*mounts, *_not_in(mounts, model.fetch_mounts))],
    }
    if model.fetch is not None:
        pod["initContainers"] = [_fetch(model.fetch, workers)]
    if workers.priority_class_name is not None:
        pod["priorityClassName"] = workers.priority_class_name
    _schedule(pod, overrides.spec, settings, selector(name, WORKER), model.pull_secret)
    return {
        "metadata": {
            # The operator's own stand last: they are not to be overridden.
            "labels": {**overrides.metadata.labels, **labels(name, WORKER)},
            "annotations": {
                "kubectl.kubernetes.io/default-container": ENGINE_CONTAINER,
                **overrides.metadata.annotations,
            },
        },
        "spec": pod,
    }


def _engine(
    service: InferenceService,
    settings: Settings,
    workers: RoleSpec,
    *,
    image: str,
    model: Source,
    mounts: list[Mounted],
) -> dict[str, Any]:
    placement = WorkerPlacement(
        host="0.0.0.0",  # noqa: S104  # a pod's own address; the NetworkPolicy says who reaches it
        port=ports.SERVING,
        admin_port=ports.ADMIN,
        kv_host="$(POD_IP)",
        kv_port=ports.KV,
        kv_peers=tuple(settings.kv_peers.split(",")),
        service_token_file=TOKEN_FILE,
        role_file=LABELS_FILE,
        threads=threads(workers),
        model=model.uri,
        cuda=has_cuda(workers),
        tensor_parallel=workers.tensor_parallel,
        kv_data_ports=ports.KV_DATA,
    )
    engine = backend(service.spec.runtime.backend)
    listens = {"http": ports.SERVING, "kv": ports.KV}
    if engine.drain is Drain.ADMIN:
        listens["admin"] = ports.ADMIN
    found = container(
        ENGINE_CONTAINER,
        engine.worker(service, placement),
        image=image,
        pull_policy=settings.image_pull_policy,
        ports=listens,
        mounts=mounts,
        resources=container_resources(workers),
    )
    for override in workers.pod_template.spec.containers:
        if override.name == ENGINE_CONTAINER:
            found = with_environment(found, override.env)
    return found


def _fetch(fetch: dict[str, Any], workers: RoleSpec) -> dict[str, Any]:
    """The container that fetches; it may use what the engine will, so that quotas admit it."""
    resources = {
        kind: {name: value for name, value in amounts.items() if name in ("cpu", "memory")}
        for kind, amounts in container_resources(workers).items()
    }
    if any(resources.values()):
        fetch = {**fetch, "resources": {kind: some for kind, some in resources.items() if some}}
    return fetch


def _not_in(mounts: list[Mounted], more: tuple[Mounted, ...]) -> list[Mounted]:
    names = {mounted.volume["name"] for mounted in mounts}
    return [mounted for mounted in more if mounted.volume["name"] not in names]


def _schedule(
    pod: dict[str, Any],
    overrides: PodOverrides,
    settings: Settings,
    chosen: dict[str, str],
    pull_secret: str | None,
) -> None:
    """Add where the pod may run, as what, and how its images are pulled."""
    constraints = spread(settings, chosen, overrides.topology_spread_constraints)
    own = (one.name for one in overrides.image_pull_secrets)
    secrets = dict.fromkeys((*settings.image_pull_secrets, *filter(None, (pull_secret,)), *own))
    given = {
        "topologySpreadConstraints": constraints,
        "nodeSelector": dict(overrides.node_selector),
        "tolerations": [
            one.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            for one in overrides.tolerations
        ],
        "runtimeClassName": overrides.runtime_class_name,
        "schedulerName": overrides.scheduler_name,
        "serviceAccountName": overrides.service_account_name,
        "imagePullSecrets": [{"name": secret} for secret in secrets],
    }
    pod.update({field: value for field, value in given.items() if value})

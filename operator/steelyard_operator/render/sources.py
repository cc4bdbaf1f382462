"""How a checkpoint gets into a worker's pod, for each scheme of `model.uri`.

hf:// and s3:// are fetched by an init container, from the network or from a cache that pods share;
pvc:// is a claim, oci:// an image volume; file:// and package:// are inside the engine's image.
"""

from dataclasses import dataclass
from typing import Any

from steelyard_operator.api.names import MODEL_CONTAINER, Role
from steelyard_operator.api.v1alpha1 import InferenceService, ModelSpec
from steelyard_operator.render.fetching import CREDENTIALS_FILE, asked_variables, guarded
from steelyard_operator.render.security import container_security
from steelyard_operator.render.volumes import Mounted, secret_file, tmp
from steelyard_operator.settings import Settings

FOLDER = "/models"
CACHE_FOLDER = "/var/cache/steelyard"
CA_FOLDER = "/etc/steelyard/ca"


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint in a pod."""

    uri: str
    """What the engine is told."""
    mounts: tuple[Mounted, ...] = ()
    """Of the engine."""
    fetch: dict[str, Any] | None = None
    """The init container that puts it there, without resources."""
    fetch_mounts: tuple[Mounted, ...] = ()
    """Those of its mounts that the engine has not."""
    pull_secret: str | None = None


def source(service: InferenceService, settings: Settings, role: Role) -> Source:
    """Return how the checkpoint of a service gets into the pods of a role.

    Args:
        service: the resource.
        settings: the operator's: image, cache, proxy, certificates.
        role: whose overrides are used.
    """
    model = service.spec.model
    scheme, _, rest = model.uri.partition("://")
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        volume = {
            "name": "model",
            "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
        }
        return Source(f"file://{FOLDER}/{path}", (Mounted(volume, FOLDER),))
    if scheme == "oci":
        volume = {
            "name": "model",
            "image": {"reference": rest, "pullPolicy": settings.image_pull_policy},
        }
        secret = model.credentials_secret_ref
        return Source(
            f"file://{FOLDER}",
            (Mounted(volume, FOLDER),),
            pull_secret=secret.name if secret else None,
        )
    if scheme in ("hf", "s3"):
        return _fetched(service, settings, role)
    return Source(model.uri)


def fetched_path(model: ModelSpec) -> str:
    """Return where `steelyard-runtime fetch` puts a checkpoint: a folder, or the one GGUF file."""
    # A revision may have slashes; a key in a bucket may have an at sign.
    path = model.uri.partition("@")[0] if model.uri.startswith("hf://") else model.uri
    last = path.rpartition("/")[2]
    return f"{FOLDER}/{last}" if last.endswith(".gguf") else FOLDER


def _fetched(service: InferenceService, settings: Settings, role: Role) -> Source:
    model = service.spec.model
    # Read-only in the engine; only the container that fetches writes.
    shared = (Mounted({"name": "model", "emptyDir": {}}, FOLDER), *_cache(settings))
    variables = asked_variables(service, role)
    environment: list[dict[str, Any]] = [
        {"name": name, "value": value} for name, value in (_network(settings) | variables).items()
    ]
    own = [tmp()]
    secret = model.credentials_secret_ref
    if secret is not None and model.uri.startswith("hf://"):
        reference = {"name": secret.name, "key": secret.key}
        environment.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    elif secret is not None:
        # What AWS' own tools read: it has the two halves of a key, and a region if need be.
        own.append(secret_file("credentials", secret.name, secret.key, CREDENTIALS_FILE))
        environment.append({"name": "AWS_SHARED_CREDENTIALS_FILE", "value": CREDENTIALS_FILE})
    if settings.ca_config_map:
        volume = {"name": "ca", "configMap": {"name": settings.ca_config_map}}
        own.append(Mounted(volume, CA_FOLDER))
    arguments = [model.uri, "--to", FOLDER]
    if len(shared) > 1:
        arguments += ["--cache", CACHE_FOLDER]
    container = {
        "name": MODEL_CONTAINER,
        "image": settings.worker_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["steelyard-runtime", "fetch"],
        "args": arguments,
        "env": environment,
        "securityContext": container_security(),
        "volumeMounts": [
            *(mounted.mount(read_only=False) for mounted in shared),
            *(mounted.mount() for mounted in own),
        ],
    }
    return Source(f"file://{fetched_path(model)}", shared, guarded(container, settings), tuple(own))


def _cache(settings: Settings) -> tuple[Mounted, ...]:
    """Where downloads are kept between pods, if the operator has such a place."""
    if settings.model_cache_claim:
        volume: dict[str, Any] = {
            "name": "cache",
            "persistentVolumeClaim": {"claimName": settings.model_cache_claim},
        }
    elif settings.model_cache_host_path:
        place = {"path": settings.model_cache_host_path, "type": "DirectoryOrCreate"}
        volume = {"name": "cache", "hostPath": place}
    else:
        return ()
    return (Mounted(volume, CACHE_FOLDER),)


def _network(settings: Settings) -> dict[str, str]:
    """How the site's network is left, as the libraries of hubs and buckets want to be told."""
    proxies = {
        "HTTP_PROXY": settings.http_proxy,
        "HTTPS_PROXY": settings.https_proxy,
        "NO_PROXY": settings.no_proxy,
    }
    found = {name: value for name, value in proxies.items() if value}
    if settings.ca_config_map:
        file = f"{CA_FOLDER}/ca.crt"
        found |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"), file)
    return found

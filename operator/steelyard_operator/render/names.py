"""Names of everything that a service has. They never clash between services of one namespace.

A suffix that is a number is a pod's; every other object has a word.
"""

from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.settings import Settings

UID_DIGITS = 8
TOKEN = "token"  # noqa: S105  # a part of a name
WORKER_KEY = "worker-key"
# Between a service's name and its uid's first digits in the names of Secrets that are made for it.
OWN_SECRET_WORDS = (TOKEN, WORKER_KEY)


def pod_name(service: str, slot: int) -> str:
    """Return the name of the worker in a budget slot."""
    return f"{service}-{slot}"


def slot_of(pod: str, service: str) -> int | None:
    """Return the budget slot in a worker's name; None where it is no name of that service."""
    name, _, number = pod.rpartition("-")
    if name != service or not number.isascii() or not number.isdigit():
        return None
    slot = int(number)
    return slot if number == str(slot) else None


def role_service_name(service: str, role: Role) -> str:
    """Return the name of the headless Service that lists the workers of PREFILL or DECODE."""
    return f"{service}-{role.wire}"


def router_name(service: str) -> str:
    """Return the name of the router's Deployment, Service, budget and policy."""
    return f"{service}-router"


def workers_name(service: str) -> str:
    """Return the name of the workers' budget and policy."""
    return f"{service}-workers"


def token_secret_name(service: str, uid: str) -> str:
    """Return the name of the Secret with the token of one service.

    The token is the uid's: a service that is made again under the name of one that was deleted
    must not mount the old Secret, which is collected later.
    """
    return f"{service}-{TOKEN}-{uid[:UID_DIGITS]}"


def worker_key_secret_name(service: str, uid: str) -> str:
    """Return the name of the Secret with the key of the workers' serving port; as the token's."""
    return f"{service}-{WORKER_KEY}-{uid[:UID_DIGITS]}"


def revision_name(service: str, revision: str) -> str:
    """Return the name of the ControllerRevision with a hash."""
    return f"{service}-{revision}"


def endpoint_url(service: InferenceService, settings: Settings) -> str:
    """Return the address of the service inside the cluster."""
    meta, port = service.metadata, service.spec.router.service.port
    host = f"{router_name(meta.name)}.{meta.namespace}.svc.{settings.cluster_domain}"
    return f"http://{host}" if port == 80 else f"http://{host}:{port}"

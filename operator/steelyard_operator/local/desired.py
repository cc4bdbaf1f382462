"""The processes that one service needs on this machine: the pods' commands at local addresses.

Pure: ports, cores and paths are arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import Backend, InferenceService
from steelyard_operator.backends.base import Container, RouterPlacement, WorkerPlacement
from steelyard_operator.backends.registry import backend
from steelyard_operator.backends.router import router
from steelyard_operator.errors import UserError
from steelyard_operator.local.cost import Price
from steelyard_operator.local.planning import Wanted

PORTS_PER_WORKER = 3  # serving, admin, KV

LOCAL_SCHEMES = ("file", "package")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the processes of one run listen, and the files that they read."""

    host: str
    router_port: int
    worker_ports: Sequence[int]  # PORTS_PER_WORKER for each worker
    token_file: Path
    membership_file: Path


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process and where it is asked how it is."""

    wanted: Wanted
    role: Role
    url: str
    admin_url: str


@dataclass(frozen=True, slots=True)
class Desired:
    """All processes of one service."""

    model: str
    url: str
    router: Wanted
    workers: tuple[Worker, ...]
    drain_seconds: int
    price: Price | None

    @property
    def processes(self) -> tuple[Wanted, ...]:
        """Workers first: they take longest to start."""
        return (*(worker.wanted for worker in self.workers), self.router)

    @property
    def stop_order(self) -> tuple[tuple[str, ...], ...]:
        """Names by stage: streams end in the router, then decode, whose pulls end in prefill."""
        stages: list[tuple[str, ...]] = [(self.router.name,)]
        for role in (Role.BOTH, Role.DECODE, Role.PREFILL):
            stages.append(tuple(w.wanted.name for w in self.workers if w.role is role))
        return tuple(filter(None, stages))


def require_local(service: InferenceService, file: str) -> None:
    """Raise a UserError where the document asks for something that only a cluster has."""
    model = service.spec.model
    if model.uri.partition("://")[0] not in LOCAL_SCHEMES:
        raise UserError(
            f"{file}: `spec.model.uri` must be file:///path or package://distribution/file on one "
            f"machine, got '{model.uri}'"
        )
    if service.spec.runtime.backend is not Backend.NATIVE:
        raise UserError(
            f"{file}: `spec.runtime.backend` must be Native on one machine, got "
            f"'{service.spec.runtime.backend}'"
        )
    if worker_count(service) == 0 or service.spec.decode.start_replicas == 0:
        raise UserError(f"{file}: `spec.decode.replicas` must be at least 1 on one machine, got 0")
    if service.spec.router.api_keys_secret_ref is not None:
        raise UserError(
            f"{file}: `spec.router.apiKeysSecretRef` names a Secret, and one machine has none; "
            "remove it (the endpoint listens on 127.0.0.1 alone)"
        )
    for field in ("speculation", "compression"):
        # They change answers' speed and content; to pass over them silently would be a lie.
        given = getattr(service.spec, field)
        if given != type(given)():
            raise UserError(
                f"{file}: `spec.{field}` is not served by this version on one machine; remove it"
            )


def worker_count(service: InferenceService) -> int:
    """How many workers a service starts with."""
    return service.spec.prefill.start_replicas + service.spec.decode.start_replicas


def desired(service: InferenceService, addresses: Addresses, *, cores: int) -> Desired:
    """Render every process of a service."""
    spec = service.spec
    render = backend(spec.runtime.backend)
    roles = [Role.PREFILL] * spec.prefill.start_replicas
    roles += [Role.DECODE] * spec.decode.start_replicas
    workers = []
    for number, role in enumerate(roles):
        first = PORTS_PER_WORKER * number
        port, admin_port, kv_port = addresses.worker_ports[first : first + PORTS_PER_WORKER]
        container = render.worker(
            service,
            WorkerPlacement(
                host=addresses.host,
                port=port,
                admin_port=admin_port,
                kv_host=addresses.host,
                kv_port=kv_port,
                kv_peers=(f"{addresses.host}/32",),
                service_token_file=str(addresses.token_file),
                role=role,
                threads=max(1, cores // len(roles)),
            ),
        )
        workers.append(
            Worker(
                wanted=Wanted(f"{service.metadata.name}-{number}", container),
                role=role,
                url=f"http://{addresses.host}:{port}",
                admin_url=f"http://{addresses.host}:{admin_port}",
            )
        )
    return Desired(
        model=spec.model.name,
        url=f"http://{addresses.host}:{addresses.router_port}",
        router=Wanted(f"{service.metadata.name}-router", _router(service, addresses)),
        workers=tuple(workers),
        drain_seconds=spec.rollout.drain_seconds,
        price=_price(service),
    )


def _router(service: InferenceService, addresses: Addresses) -> Container:
    placement = RouterPlacement(
        host=addresses.host,
        port=addresses.router_port,
        members=str(addresses.membership_file),
    )
    return router(service, placement)


def _price(service: InferenceService) -> Price | None:
    spec = service.spec
    if spec.cost is None:
        return None
    accelerators = sum(
        role.start_replicas * role.tensor_parallel for role in (spec.prefill, spec.decode)
    )
    return Price(hourly=spec.cost.hourly * accelerators, currency=spec.cost.currency)

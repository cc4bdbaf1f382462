"""What every backend renders: a container's command, environment, probes and end.

Pure. Where a worker listens is an argument (`WorkerPlacement`), so a pod and a local process get
the same command line with other addresses.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.settings import Settings


class Flip(StrEnum):
    """How a worker changes its role."""

    IN_PLACE = "InPlace"  # POST /role on the admin port
    RELABEL = "Relabel"  # it serves any role at any time: the label alone decides
    NONE = "None"


class Drain(StrEnum):
    """How a worker is drained, and who says that it is empty."""

    ADMIN = "Admin"  # POST /drain, then inFlight in GET /state
    METRICS = "Metrics"  # nothing new reaches it without labels; its metrics count what runs


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP GET that tells something about a container."""

    path: str
    port: int
    period_seconds: int
    failure_threshold: int
    timeout_seconds: int = 5

    @property
    def patience_seconds(self) -> int:
        """How long it may fail before that counts."""
        return self.period_seconds * self.failure_threshold


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait before the container is told to end: its address leaves the routers meanwhile."""

    seconds: int


@dataclass(frozen=True, slots=True)
class Command:
    """Run this inside the container before it is told to end."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Container:
    """What runs, the same in a pod and as a local process."""

    command: tuple[str, ...]
    environment: dict[str, str]
    startup: Probe
    readiness: Probe
    liveness: Probe
    pre_stop: Sleep | Command
    """Only in a pod: local mode takes a process out of the membership file itself."""


@dataclass(frozen=True, slots=True)
class WorkerPlacement:
    """Where one worker runs: what differs between machines, not between services."""

    host: str
    port: int
    admin_port: int
    kv_host: str
    kv_port: int
    kv_peers: tuple[str, ...]
    service_token_file: str
    role: Role | None = None
    role_file: str | None = None  # wins over `role`: a pod's role is a label that changes
    threads: int | None = None
    model: str | None = None  # where the checkpoint lies there; None: where the resource says
    cuda: bool = False
    tensor_parallel: int = 1
    kv_data_ports: str | None = None  # "first-last": where UCX may listen; None: anywhere


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The headless Services whose EndpointSlices list the workers."""

    namespace: str
    prefill_service: str
    decode_service: str


@dataclass(frozen=True, slots=True)
class RouterPlacement:
    """Where the router runs, and where it learns of workers."""

    host: str
    port: int
    members: str | Endpoints  # a membership file, or what a cluster lists
    api_keys_file: str | None = None
    worker_api_key_file: str | None = None  # what workers ask for; None: they are open


class Backend(Protocol):
    """How one engine is started, probed and ended."""

    @property
    def flip(self) -> Flip:
        """How a worker changes its role."""

    @property
    def drain(self) -> Drain:
        """How a worker is drained."""

    @property
    def executable(self) -> str:
        """The program that a worker's command line begins with."""

    @property
    def api_key_flag(self) -> str:
        """The flag for a file with the key of the serving port; empty where there is none."""

    @property
    def api_key_variable(self) -> str | None:
        """The variable with that key, where the engine has no such flag."""

    def image(self, settings: Settings) -> str:
        """The image of a worker where the resource names none."""

    def worker(self, service: InferenceService, placement: WorkerPlacement) -> Container:
        """Render a worker."""

    def unsupported(self, service: InferenceService) -> str | None:
        """Say in one sentence what the resource asks for and this engine cannot do, if anything."""

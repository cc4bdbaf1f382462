"""What every backend renders: a container's command, environment and probes.

Pure. Where a worker listens is an argument (`WorkerPlacement`), so a pod and a local process get
the same command line with other addresses.
"""

from dataclasses import dataclass
from typing import Protocol

from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import InferenceService


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
class Container:
    """What runs, the same in a pod and as a local process."""

    command: tuple[str, ...]
    environment: dict[str, str]
    startup: Probe
    readiness: Probe
    liveness: Probe


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


@dataclass(frozen=True, slots=True)
class RouterPlacement:
    """Where the router runs."""

    host: str
    port: int
    membership_file: str
    api_keys_file: str | None = None


class Backend(Protocol):
    """How one engine is started and probed."""

    def worker(self, service: InferenceService, placement: WorkerPlacement) -> Container:
        """Render a worker."""

    def router(self, service: InferenceService, placement: RouterPlacement) -> Container:
        """Render the router in front of the workers."""

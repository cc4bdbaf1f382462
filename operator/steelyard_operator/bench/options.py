"""How large a run is, and what it must not exceed."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Targets, by figure: it is met where the figure is below.
TARGETS = {
    "change_to_pod_p99_seconds": 2.0,
    "memory_mb": 500.0,
    "requests_per_idle_service_per_minute": 2.0,
    "restart_seconds": 60.0,
}
ROUTERS_PER_SERVICE = 2


@dataclass(frozen=True, slots=True)
class Options:
    """One run."""

    services: int
    pods_per_service: int
    """Workers; the routers come on top."""
    busy_percent: int
    """So many of the services get requests; the others are idle."""
    rate: float
    """Changes a second."""
    seconds: float
    """For how long there are changes."""
    idle_seconds: float
    """For how long the requests of idle services are counted."""
    programs: Path
    """The folder of etcd, kube-apiserver, kwok and so on."""
    folder: Path | None
    """For what the programs write; None: a temporary one."""
    result: Path

    @property
    def prefill(self) -> int:
        """Prefill workers of each service."""
        return max(1, self.pods_per_service * 3 // 10)

    @property
    def decode(self) -> int:
        """Decode workers of each service."""
        return max(1, self.pods_per_service - self.prefill)

    @property
    def workers(self) -> int:
        """Of all services, before any change."""
        return self.services * (self.prefill + self.decode)

    @property
    def routers(self) -> int:
        """Of all services."""
        return self.services * ROUTERS_PER_SERVICE

    def name(self, number: int) -> str:
        """Return the name of a service."""
        return f"svc-{number:04d}"

    def is_busy(self, name: str) -> bool:
        """Whether a service gets requests."""
        return is_busy(name, self.busy_percent)


def is_busy(name: str, percent: int) -> bool:
    """Whether a service gets requests: so many of each hundred in a row do."""
    return int(name.rpartition("-")[2]) * 37 % 100 < percent


def parsed(arguments: Sequence[str], programs: str | None) -> Options:
    """Return the options of a command line; `programs` is $KUBE_ASSETS."""
    parser = argparse.ArgumentParser(prog="steelyard_operator.bench", description=__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--pods-per-service", type=int, default=10, help="workers, two or more")
    parser.add_argument("--busy-percent", type=int, default=20)
    parser.add_argument("--rate", type=float, default=10.0, help="changes a second")
    parser.add_argument("--seconds", type=float, default=60.0, help="of changes")
    parser.add_argument("--idle-seconds", type=float, default=120.0)
    parser.add_argument("--folder", type=Path, help="keeps what the programs write")
    parser.add_argument("--result", type=Path, default=Path("bench-results/operator.json"))
    given = parser.parse_args(arguments)
    if not programs:
        parser.error(
            "KUBE_ASSETS is not set: it must be a folder with etcd, kube-apiserver, "
            "kube-controller-manager, kube-scheduler, kubectl and kwok"
        )
    if given.services < 1 or given.pods_per_service < 2:
        parser.error("--services must be at least 1 and --pods-per-service at least 2")
    return Options(programs=Path(programs), **vars(given))

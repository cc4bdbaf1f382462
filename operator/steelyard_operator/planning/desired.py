"""What one service should look like, as numbers. Data only.

`desiring.py` makes it from the resource and its status.
"""

from dataclasses import dataclass

from steelyard_operator.api.names import Role


@dataclass(frozen=True, slots=True)
class Desired:
    """The target that planning works towards."""

    prefill: int
    decode: int
    revision: str
    """The hash of the template that new pods are made from."""
    slots: int | None = None
    """Most pods at any instant, terminating ones included; None: what is asked for, plus surge."""
    max_unavailable: int = 0
    max_surge: int = 1
    drain_seconds: int = 30
    progress_deadline_seconds: int = 1800
    pending_deadline_seconds: int = 300
    paused: bool = False
    deleting: bool = False
    """The resource is being deleted: workers are drained, nothing is made anew."""
    router_replicas: int = 2

    def replicas(self, role: Role) -> int:
        """How many workers of a role there should be."""
        return self.prefill if role is Role.PREFILL else self.decode

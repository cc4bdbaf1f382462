"""What one service should look like, as numbers. Data only.

`desiring.py` makes it from the resource and its status.
"""

from dataclasses import dataclass

from steelyard_operator.api.names import Role
from steelyard_operator.api.plan_status import Workers
from steelyard_operator.planning.split import WantedSplit


@dataclass(frozen=True, slots=True)
class Desired:
    """The target that planning works towards."""

    prefill: int
    decode: int
    prefill_revision: str
    """The hash of the template that new prefill pods are made from."""
    decode_revision: str
    """The same for decode pods; equal to it where workers may change their role."""
    slots: int | None = None
    """Most pods at any instant, terminating ones included; None: what is asked for, plus surge."""
    max_unavailable: int = 0
    max_surge: int = 1
    drain_seconds: int = 30
    progress_deadline_seconds: int = 1800
    pending_deadline_seconds: int = 300
    paused: bool = False
    suspended: bool = False
    """Hands off everything: no action at all."""
    deleting: bool = False
    """The resource is being deleted: workers are drained, nothing is made anew."""
    router_replicas: int = 2
    flip: bool = False
    """A worker may change its role in its pod."""
    ranged: frozenset[Role] = frozenset()
    """The roles with a range: what becomes of a plan becomes their target."""
    recorded: Workers | None = None
    """The target of the last pass, from the status."""
    split: WantedSplit | None = None
    """The choice that the target now follows, where it is another than before."""
    recommended: WantedSplit | None = None
    """The choice that is only told."""

    def replicas(self, role: Role) -> int:
        """How many workers of a role there should be."""
        return self.prefill if role is Role.PREFILL else self.decode

    def revision(self, role: Role) -> str:
        """The hash of the template that new pods of a role are made from."""
        return self.prefill_revision if role is Role.PREFILL else self.decode_revision

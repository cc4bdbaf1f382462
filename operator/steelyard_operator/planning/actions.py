"""What a plan may ask for. Data only: `kube/` carries it out.

Every action names its reason: one CamelCase word, which becomes the reason of an event.
"""

from dataclasses import dataclass

from steelyard_operator.api.names import Role
from steelyard_operator.planning.observed import Pod


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Make the pod of a free slot. The API server's unique names settle races: 409 is no error."""

    slot: int
    role: Role
    revision: str
    attempt: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StartDrain:
    """Take the role labels off a pod and write when: a JSON patch that tests the old labels."""

    pod: Pod
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RequestDrain:
    """Tell an unlabelled worker to finish what it has: POST /drain."""

    pod: Pod
    deadline_seconds: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Let a drained or draining worker serve its role again: POST /role, then the label."""

    pod: Pod
    role: Role
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class SetRole:
    """Tell a drained worker to serve a role: POST /role. The label follows once it says so."""

    pod: Pod
    role: Role


@dataclass(frozen=True, slots=True)
class LabelPod:
    """Give a pod without role labels the label of a role, and remove the draining annotation."""

    pod: Pod
    role: Role
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class LabelFingerprint:
    """Write the first 16 hex digits of the worker's fingerprint on its pod."""

    pod: Pod
    fingerprint: str


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete a pod; the request carries its uid and resource version."""

    pod: Pod
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class DeleteRevision:
    """Forget a template that no pod has and that is too old to go back to."""

    name: str


Action = (
    CreatePod
    | StartDrain
    | RequestDrain
    | Resume
    | SetRole
    | LabelPod
    | LabelFingerprint
    | DeletePod
    | DeleteRevision
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, and when to look again if nothing happens before."""

    actions: tuple[Action, ...] = ()
    min_available: int = 0
    """For the PodDisruptionBudget; written before the actions are carried out."""
    look_again_after_seconds: float | None = None

"""What was observed of one service, as slim frozen records. Data only.

`observing.py` makes them from Kubernetes' objects and the workers' answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from steelyard_operator.api.names import Role
from steelyard_operator.planning import untrusted
from steelyard_operator.planning.balance.fit import StepSums

_ROLES = {role.wire: role for role in Role}

FINGERPRINT_DIGITS = 16
"""So many hex digits of a worker's fingerprint are on its pod's label."""

MOST_IN_FLIGHT = 1_000_000
"""Requests in one worker; an engine holds some hundreds."""
LONGEST_WORD, LONGEST_STAGE = 128, 64


@dataclass(frozen=True, slots=True)
class Pod:
    """One worker's pod."""

    name: str
    uid: str
    resource_version: str
    slot: int
    """The budget slot: the number at the end of the name."""
    revision: str
    created_at: datetime
    roles: frozenset[Role] = frozenset()
    """The roles whose label it carries, PREFILL and DECODE; empty while it drains."""
    fingerprint: str | None = None
    draining_since: datetime | None = None
    attempt: int = 0
    """How many pods failed in a row in this slot before it."""
    phase: str = "Pending"
    """The pod's own phase: Pending, Running, Succeeded, Failed or Unknown."""
    ready: bool = False
    ready_changed_at: datetime | None = None
    deleting: bool = False
    """It has a deletion timestamp; it keeps its slot until it is gone."""
    scheduled: bool = False
    unschedulable: str | None = None
    """What the scheduler says, where it found no node."""
    waiting_reason: str | None = None
    """Why a container waits, as in ImagePullBackOff or CrashLoopBackOff."""
    waiting_message: str = ""
    crash_looping_since: datetime | None = None
    """When the container in CrashLoopBackOff ended last."""
    restarts: int = 0
    finished_at: datetime | None = None
    """When the last container of a Failed or Succeeded pod ended."""
    failure_message: str = ""
    key_secret: str | None = None
    """Of a router: the Secret whose key it shows to workers."""
    node: str | None = None
    ip: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker answers to GET /state, or what its metrics say where it has no admin port."""

    phase: str
    """loading, warmup, ready, draining, drained or failed."""
    in_flight: int
    role: Role | None = None
    fingerprint: str = ""
    epoch: int = 0
    stage: str = ""
    """What it loads at the moment."""
    percent: int | None = None
    steps: StepSums | None = None
    """What its steps took, where it says so."""

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> "WorkerState":
        """Return what an answer to GET /state says (docs/contract.md, section 3).

        Raises:
            KeyError, TypeError, ValueError: it is of another form, or a value is out of bounds.
        """
        progress = untrusted.mapping(untrusted.mapping(said).get("progress") or {})
        percent = progress.get("percent")
        return cls(
            phase=untrusted.word(said["phase"], LONGEST_WORD),
            in_flight=untrusted.count(said["inFlight"], MOST_IN_FLIGHT),
            role=_ROLES.get(untrusted.sentence(said.get("role"), LONGEST_WORD)),
            fingerprint=untrusted.word(said.get("fingerprint") or "", LONGEST_WORD),
            epoch=untrusted.count(said.get("epoch") or 0, 2**53),
            stage=untrusted.sentence(progress.get("stage"), LONGEST_STAGE),
            percent=None if percent is None else untrusted.count(percent, 100),
            steps=_steps(said),
        )


def _steps(said: Mapping[str, Any]) -> StepSums | None:
    """Read what steps took; a worker that tells it in another form is well all the same."""
    try:
        return StepSums.read(said["steps"])
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Revision:
    """One ControllerRevision of the service: a template that pods were made from."""

    name: str
    hash: str
    number: int
    """Grows with each new revision; undo makes an old one the newest again."""
    sealed: bool = True
    """It shows that the operator wrote it."""


@dataclass(frozen=True, slots=True)
class Router:
    """The router's Deployment."""

    replicas: int = 0
    ready: int = 0
    updated: bool = False
    """Its newest template is the one that all its pods have."""
    message: str = ""
    """Why it does not progress, in Kubernetes' words."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that a decision about one service is made from."""

    pods: tuple[Pod, ...] = ()
    states: Mapping[str, WorkerState] = field(default_factory=dict)
    """By pod uid; a worker that did not answer is missing."""
    revisions: tuple[Revision, ...] = ()
    router: Router | None = None
    foreign: tuple[str, ...] = ()
    """Sentences about objects under our names that are somebody else's."""
    foreign_slots: frozenset[int] = frozenset()
    """Slots whose name a foreign pod holds."""
    refused: str | None = None
    """What the API server said to the last pod that it did not admit (quota, policy)."""
    refused_object: str | None = None
    """The same for an object other than a pod, or why its kind is not known."""
    queued: bool = False
    """Pods are not made for now, because many of the namespace are in creation."""
    internal: str | None = None
    """What went wrong inside the operator with this service's balance."""

"""A model of the API server, the kubelets and the workers, for plans to be tried on.

Names are unique, preconditions are checked, workers refuse older epochs: what `kube/` meets on a
real cluster, without time or I/O.
"""

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from steelyard_operator.api.names import Role
from steelyard_operator.planning.actions import (
    Action,
    CreatePod,
    DeletePod,
    DeleteRevision,
    LabelFingerprint,
    LabelPod,
    RequestDrain,
    Resume,
    SetRole,
    StartDrain,
)
from steelyard_operator.planning.observed import Observed, Pod, Revision, WorkerState
from steelyard_operator.testing import NOON, pod

REVISIONS = (Revision("demo-old", "old", 0), Revision("demo-new", "new", 1))
PRINTS = {"old": "a" * 64, "new": "b" * 64}


@dataclass
class ModelCluster:
    """One service's pods and workers; `live` lets time pass."""

    dice: random.Random
    pods: dict[str, Pod] = field(default_factory=dict)
    states: dict[str, WorkerState] = field(default_factory=dict)
    now: datetime = NOON
    made: int = 0
    nodes_are_full: bool = False
    """New pods find no node."""

    def observe(self) -> Observed:
        """Return the facts of this moment."""
        return Observed(tuple(self.pods.values()), dict(self.states), REVISIONS)

    def start(self, prefill: int, decode: int, revision: str = "old", first_slot: int = 0) -> None:
        """Hold a running service; one that had no budget may have any slots."""
        slot = first_slot
        for role, count in ((Role.DECODE, decode), (Role.PREFILL, prefill)):
            for _ in range(count):
                uid = f"start-{slot}"
                digits = PRINTS[revision]
                self.pods[f"demo-{slot}"] = pod(
                    slot, role, revision=revision, uid=uid, fingerprint=digits[:16]
                )
                self.states[uid] = WorkerState("ready", 1, role, digits)
                slot += 1

    def apply(self, action: Action, epoch: int = 1) -> None:
        """Carry one action out as `kube/` does; one that comes too late does nothing."""
        if isinstance(action, DeleteRevision):
            return
        if isinstance(action, CreatePod):
            self._create(action)
            return
        living = self.pods.get(action.pod.name)
        if living is None or living.uid != action.pod.uid:
            return
        match action:
            case RequestDrain():
                self._order(living, epoch, "draining", None)
            case SetRole(role=role):
                self._order(living, epoch, "ready", role)
            case Resume(role=role):
                if self._order(living, epoch, "ready", role):
                    self._label(living, action.pod, role)
            case LabelPod(role=role):
                self._label(living, action.pod, role)
            case StartDrain() if living.roles == action.pod.roles:
                self._put(replace(living, roles=frozenset(), draining_since=self.now))
            case LabelFingerprint(fingerprint=digits):
                self._put(replace(living, fingerprint=digits))
            case DeletePod() if living.resource_version == action.pod.resource_version:
                self._put(replace(living, deleting=True, ready=False))

    def live(self) -> None:
        """Something happens: pods start, load, finish, end, and probes notice."""
        self.now += timedelta(seconds=self.dice.choice((0, 1, 5)))
        for name, each in list(self.pods.items()):
            if self.dice.random() < 0.5:
                continue
            state = self.states.get(each.uid)
            if each.deleting:
                del self.pods[name]
                self.states.pop(each.uid, None)
            elif each.phase == "Pending" and not self.nodes_are_full:
                self._put(replace(each, phase="Running", scheduled=True))
                role = next(iter(each.roles), Role.DECODE)
                self.states[each.uid] = WorkerState("loading", 0, role)
            elif state and state.phase == "loading":
                in_flight, digits = self.dice.randint(0, 2), PRINTS[each.revision]
                self.states[each.uid] = replace(
                    state, phase="ready", in_flight=in_flight, fingerprint=digits
                )
                self._put(replace(each, ready=True))
            elif state and state.phase == "draining":
                left = max(0, state.in_flight - 1)
                phase = "draining" if left else "drained"
                self.states[each.uid] = replace(state, in_flight=left, phase=phase)
            elif state and each.ready != (state.phase == "ready") and each.phase == "Running":
                self._put(replace(each, ready=state.phase == "ready"))

    def fail(self, uid: str) -> None:
        """A worker's container ends and is not started again."""
        if (each := self._by_uid(uid)) is not None:
            ended = replace(each, phase="Failed", ready=False, finished_at=self.now)
            self._put(ended)
            self.states.pop(uid, None)

    def restart(self, uid: str) -> None:
        """A worker's container ends and is started again, in the role of its labels."""
        each = self._by_uid(uid)
        if each is not None and uid in self.states:
            role = next(iter(each.roles), Role.BOTH)
            self._put(replace(each, ready=False, restarts=each.restarts + 1))
            self.states[uid] = WorkerState("loading", 0, role)

    def delete(self, uid: str) -> None:
        """Somebody deletes a worker's pod."""
        if (each := self._by_uid(uid)) is not None:
            self._put(replace(each, deleting=True, ready=False))

    def _by_uid(self, uid: str) -> Pod | None:
        return next((each for each in self.pods.values() if each.uid == uid), None)

    def _create(self, action: CreatePod) -> None:
        name = f"demo-{action.slot}"
        if name in self.pods:
            return
        self.made += 1
        self.pods[name] = pod(
            action.slot,
            action.role,
            revision=action.revision,
            attempt=action.attempt,
            uid=f"uid-{self.made}",
            created_at=self.now,
            phase="Pending",
            ready=False,
            fingerprint=None,
            scheduled=False,
            unschedulable="no node fits" if self.nodes_are_full else None,
        )

    def _order(self, living: Pod, epoch: int, phase: str, role: Role | None) -> bool:
        """Tell a worker; it refuses an older epoch, and another role unless it is drained."""
        state = self.states.get(living.uid)
        if state is None or state.phase == "loading" or epoch < state.epoch:
            return False
        if role not in (None, state.role) and state.phase != "drained":
            return False
        changed = replace(state, phase=phase, epoch=epoch, role=role or state.role)
        if phase == "draining" and changed.in_flight == 0:
            changed = replace(changed, phase="drained")
        self.states[living.uid] = changed
        return True

    def _label(self, living: Pod, believed: Pod, role: Role) -> None:
        """Patch the labels; the annotation that the patch removes must be there."""
        if living.roles and role in believed.roles:
            return
        if living.draining_since is None:
            return
        self._put(replace(living, roles=frozenset((role,)), draining_since=None))

    def _put(self, changed: Pod) -> None:
        version = str(int(changed.resource_version) + 1)
        self.pods[changed.name] = replace(changed, resource_version=version)

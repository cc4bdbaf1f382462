"""Carries out what a plan asks for. Nothing is decided here.

Every action may come too late: the pod has changed, or is gone. That is no error; the next pass
sees it. What the API server will not have is told, so that it can be said in the status.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from steelyard_operator.api.names import Role
from steelyard_operator.backends.base import Drain
from steelyard_operator.errors import UserError
from steelyard_operator.kube import patches
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.caches import Caches
from steelyard_operator.kube.children import is_leftover, owner_words
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.errors import (
    ApiError,
    Changed,
    Conflict,
    NotFound,
    Refused,
    Unreachable,
)
from steelyard_operator.kube.events import Happening
from steelyard_operator.kube.informer import controller_of
from steelyard_operator.kube.kinds import POD
from steelyard_operator.kube.metrics import ACTIONS
from steelyard_operator.kube.revisions import Revisions, adoption
from steelyard_operator.kube.workers import WorkerError, Workers
from steelyard_operator.planning.actions import (
    Action,
    CreatePod,
    DeletePod,
    DeleteRevision,
    LabelFingerprint,
    LabelPod,
    Plan,
    RequestDrain,
    Resume,
    SetRole,
    StartDrain,
)
from steelyard_operator.planning.observed import Pod, WorkerState
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.pod import worker_pod
from steelyard_operator.settings import Settings

log = logging.getLogger(__name__)

AT_A_TIME = 8

# The Lease's number has 32 bits and grows with each leader: a worker that claims a number near its
# end must not use it up. No operator that ever led comes near.
HIGHEST_BELIEVED_EPOCH = 2**30


class Epoch(Protocol):
    """What orders to workers carry."""

    @property
    def epoch(self) -> int:
        """The number of this leader."""

    async def raise_epoch(self, above: int) -> None:
        """Make it greater than one that a worker has seen."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One service, for the time of one pass."""

    owner: Owner
    token: str
    drain: Drain
    states: Mapping[str, WorkerState] = field(default_factory=dict)


@dataclass(slots=True)
class Result:
    """What came of a plan."""

    done: list[Happening] = field(default_factory=list)
    refused: str | None = None
    """What the API server said to a pod that it did not admit."""
    created: int = 0
    foreign_slots: dict[int, str] = field(default_factory=dict)
    """By slot: a sentence about the pod that is somebody else's."""
    carried_out: int = 0
    """How many actions were done; the watch does not tell of our own writes."""
    late: int = 0
    """How many actions were overtaken by a change."""
    failed: list[ApiError] = field(default_factory=list)
    queued: int = 0
    """How many pods were not made because many others of the namespace are in creation."""


class Acting:
    """Carries out plans on one API server and its workers."""

    def __init__(
        self,
        client: Client,
        caches: Caches,
        workers: Workers,
        revisions: Revisions,
        leadership: Epoch,
        *,
        settings: Settings,
        routers_key: Callable[[Owner], str | None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._pods = caches.pods
        self._workers = workers
        self._revisions = revisions
        self._leadership = leadership
        self._settings = settings
        self._routers_key = routers_key
        self._clock = clock

    async def act(self, scene: Scene, plan: Plan, *, creations: int) -> Result:
        """Carry out a plan's actions, several at a time.

        Args:
            scene: the service.
            plan: the actions.
            creations: how many pods may be made in this pass.
        """
        result = Result()
        places = asyncio.Semaphore(AT_A_TIME)

        async def one(action: Action) -> None:
            async with places:
                await self._one(scene, action, result)

        made = [a for a in plan.actions if isinstance(a, CreatePod)][:creations]
        others = [a for a in plan.actions if not isinstance(a, CreatePod)]
        await asyncio.gather(*(one(action) for action in (*others, *made)))
        return result

    async def adopt(self, owner: Owner) -> None:
        """Take over pods with our label that nobody controls."""
        for held in self._pods.of(owner.namespace, owner.name):
            if held.controller is None and not held.record.deleting:
                await self._patch(owner, held.record, adoption(owner, held))

    async def _one(self, scene: Scene, action: Action, result: Result) -> None:
        name = type(action).__name__
        try:
            await self._carry_out(scene, action, result)
        except NotFound:
            if (pod := getattr(action, "pod", None)) is not None:
                self._pods.remove(pod.uid)
            outcome = "late"
        except (Conflict, Changed):
            outcome = "late"
        except WorkerError as error:
            # A worker that does not answer is drained by its deadline, whatever it says.
            log.info("%s/%s: %s", *owner_words(scene.owner), error)
            ACTIONS.labels(name, "failed").inc()
            return
        except ApiError as error:
            ACTIONS.labels(name, "failed").inc()
            if isinstance(action, CreatePod) and isinstance(error, Refused):
                result.refused = str(error)
            else:
                result.failed.append(error)
            return
        else:
            outcome = "done"
        ACTIONS.labels(name, outcome).inc()
        result.carried_out += outcome == "done"
        result.late += outcome == "late"
        reason, note = getattr(action, "reason", None), getattr(action, "message", None)
        if outcome == "done" and reason and note:
            log.info("%s/%s: %s: %s", *owner_words(scene.owner), reason, note)
            result.done.append(Happening(reason, note, name))

    async def _carry_out(self, scene: Scene, action: Action, result: Result) -> None:
        owner = scene.owner
        match action:
            case CreatePod():
                await self._create(owner, action, result)
            case StartDrain(pod=pod):
                await self._patch(owner, pod, patches.start_drain(pod, self._clock()))
            case LabelPod(pod=pod, role=role):
                await self._patch(owner, pod, patches.serve(pod, role))
            case LabelFingerprint(pod=pod, fingerprint=digits):
                await self._patch(owner, pod, patches.fingerprint(pod, digits))
            case RequestDrain(pod=pod, deadline_seconds=seconds):
                if scene.drain is Drain.ADMIN:
                    await self._workers.drain(
                        pod,
                        deadline_seconds=seconds,
                        epoch=await self._epoch(scene, pod),
                        token=scene.token,
                    )
            case SetRole(pod=pod, role=role) | Resume(pod=pod, role=role):
                await self._set_role(scene, pod, role)
                if isinstance(action, Resume) and role not in pod.roles:
                    await self._patch(owner, pod, patches.serve(pod, role))
            case DeletePod(pod=pod):
                answer = await self._client.delete(
                    POD,
                    owner.namespace,
                    pod.name,
                    uid=pod.uid,
                    resource_version=pod.resource_version,
                )
                if answer.get("kind") == POD.kind:
                    self._pods.put(answer, silent=True)
                else:
                    self._pods.remove(pod.uid)
            case DeleteRevision(name=name):
                await self._revisions.delete(owner, name)

    async def _set_role(self, scene: Scene, pod: Pod, role: Role) -> None:
        if scene.drain is Drain.ADMIN:
            await self._workers.set_role(
                pod, role=role, epoch=await self._epoch(scene, pod), token=scene.token
            )

    async def _create(self, owner: Owner, action: CreatePod, result: Result) -> None:
        template = await self._revisions.template(owner, action.revision)
        try:
            body = worker_pod(
                owner,
                template,
                slot=action.slot,
                role=action.role,
                revision=action.revision,
                attempt=action.attempt,
                settings=self._settings,
                worker_key=self._routers_key(owner),
            )
        except UserError as error:
            raise Refused(str(error)) from None
        try:
            answer = await self._client.create(POD, body)
        except Conflict:
            await self._look_at_taken(owner, body["metadata"]["name"], action.slot, result)
            raise
        self._pods.put(answer, silent=True)
        result.created += 1
        if lost := _lost_volumes(body, answer):
            # The pod would start without its model; API servers before 1.35 have this off.
            meta = answer["metadata"]
            await self._client.delete(POD, owner.namespace, meta["name"], uid=meta["uid"])
            raise Refused(
                f"the API server dropped the image volume '{lost}' from pod '{meta['name']}'; "
                "`model.uri` with oci:// needs the feature gate ImageVolume"
            )

    async def _look_at_taken(self, owner: Owner, name: str, slot: int, result: Result) -> None:
        """Find out who has the name of a slot: us, an orphan, or somebody else."""
        try:
            raw = await self._client.get(POD, owner.namespace, name)
        except NotFound:
            return
        controller = controller_of(raw["metadata"])
        if controller.get("uid") == owner.uid:
            self._pods.put(raw, silent=True)
            return
        whose = f"{controller['kind']}/{controller['name']}" if controller else ""
        if is_leftover(owner, whose):
            return
        by = f"is controlled by {whose}" if whose else "was not made by this operator"
        result.foreign_slots[slot] = f"the Pod '{name}' {by}; its slot is not used"

    async def _patch(self, owner: Owner, pod: Pod, operations: patches.Operations) -> None:
        answer = await self._client.patch(POD, owner.namespace, pod.name, operations)
        self._pods.put(answer, silent=True)

    async def _epoch(self, scene: Scene, pod: Pod) -> int:
        state = scene.states.get(pod.uid)
        if state is not None and self._leadership.epoch < state.epoch < HIGHEST_BELIEVED_EPOCH:
            await self._leadership.raise_epoch(state.epoch)
        return self._leadership.epoch


def raise_first(errors: list[ApiError]) -> None:
    """Raise the first of several errors; one that says that the API server is away comes first."""
    for error in sorted(errors, key=lambda error: not isinstance(error, Unreachable)):
        raise error


def _lost_volumes(sent: Raw, answer: Raw) -> str | None:
    """Return the name of an image volume that was sent and is not in the pod that was made."""
    kept: dict[str, Any] = {v["name"]: v for v in answer["spec"].get("volumes") or []}
    for volume in sent["spec"].get("volumes") or []:
        if "image" in volume and "image" not in kept.get(volume["name"], {}):
            return str(volume["name"])
    return None

"""One pass over one service: observe, desire, plan, apply, say so. Only the order is here."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from steelyard_operator.api.load import read_status
from steelyard_operator.api.names import Role
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import Flip
from steelyard_operator.backends.registry import backend
from steelyard_operator.backends.registry import unsupported as engine_unsupported
from steelyard_operator.errors import UserError
from steelyard_operator.kube.acting import Acting, Result, Scene, raise_first
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.balancing import Balancing
from steelyard_operator.kube.caches import Caches
from steelyard_operator.kube.children import Children, is_leftover
from steelyard_operator.kube.events import Events, Happening
from steelyard_operator.kube.failures import Failures
from steelyard_operator.kube.kinds import DEPLOYMENT
from steelyard_operator.kube.memory import Memory
from steelyard_operator.kube.metrics import RECONCILE_SECONDS, RECONCILES
from steelyard_operator.kube.queue import Key
from steelyard_operator.kube.reporting import Reporting, plain
from steelyard_operator.kube.revisions import Revisions
from steelyard_operator.kube.room import LOOK_AGAIN_SECONDS, Room
from steelyard_operator.kube.service_secrets import ServiceSecrets
from steelyard_operator.kube.services import Services, read_kept
from steelyard_operator.kube.token import MasterKey
from steelyard_operator.kube.transacting import Transacting, plan_events
from steelyard_operator.kube.workers import Workers
from steelyard_operator.planning.actions import CreatePod, Plan
from steelyard_operator.planning.deciding import decide
from steelyard_operator.planning.desired import Desired
from steelyard_operator.planning.flip import donors
from steelyard_operator.planning.observed import Observed
from steelyard_operator.planning.status import status
from steelyard_operator.planning.trouble import unsupported
from steelyard_operator.render.children import children
from steelyard_operator.render.names import endpoint_url
from steelyard_operator.render.owner import Owner
from steelyard_operator.render.refusals import refused
from steelyard_operator.render.revision import revision_hash
from steelyard_operator.settings import Settings

SOON_SECONDS = 1.0
RESYNC_SECONDS = 600.0
FOREIGN_SLOT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pass works with."""

    settings: Settings
    services: Services
    caches: Caches
    workers: Workers
    children: Children
    revisions: Revisions
    acting: Acting
    transacting: Transacting
    reporting: Reporting
    balancing: Balancing
    events: Events
    failures: Failures
    room: Room
    secrets: ServiceSecrets
    master_key: MasterKey


class Reconciler:
    """Does passes; call it with a key."""

    def __init__(
        self,
        parts: Parts,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._now = now
        self._memories: dict[str, Memory] = {}

    async def __call__(self, key: Key) -> float | None:
        """Do one pass; returns after how many seconds to look again."""
        raw = self._parts.services.get(key)
        with RECONCILE_SECONDS.time():
            try:
                if raw is None:
                    self._forget(key[1])
                    RECONCILES.labels("gone").inc()
                    return None
                again = await self._pass(raw)
            except BaseException as error:
                RECONCILES.labels("failed").inc()
                if raw is not None and isinstance(error, Exception):
                    await self._parts.failures.tell_failure(raw, error)
                raise
        RECONCILES.labels("done").inc()
        return again

    async def _pass(self, raw: Raw) -> float:
        meta = raw["metadata"]
        owner = Owner(meta["name"], meta["namespace"], meta["uid"])
        previous = read_status(raw)
        try:
            service = read_kept(raw)
        except UserError as error:
            await self._parts.failures.tell_unreadable(raw, owner, str(error))
            return RESYNC_SECONDS
        memory = self._memories.setdefault(owner.uid, Memory())
        refusal = unsupported(service, engine_unsupported(service)) or refused(
            service, self._parts.settings
        )
        deleting = meta.get("deletionTimestamp") is not None
        seen, scene = await self._observe(owner, service, memory)
        choose = partial(
            decide,
            service,
            previous,
            revisions={role: revision_hash(service, role) for role in (Role.PREFILL, Role.DECODE)},
            served=refusal is None,
            deleting=deleting,
            can_flip=backend(service.spec.runtime.backend).flip is not Flip.NONE,
            epoch=self._parts.transacting.next_epoch,
            wanted=self._parts.balancing.wanted((owner.namespace, owner.uid)),
        )
        choice = choose(seen, now=self._now())
        if choice.hangs_on_counts and not deleting:
            # Who leaves hangs on who is least busy now, and figures of idle passes are old.
            seen, scene = await self._observe(owner, service, memory, fresh=True)
            choice = choose(seen, now=self._now())
        want, turn, the_plan = choice.want, choice.turn, choice.plan
        if turn.changed:
            previous = await self._parts.transacting.write(raw, previous, want, turn)
            raw = self._parts.services.get((owner.namespace, owner.uid)) or raw
            if previous is None:
                return SOON_SECONDS
        self._parts.transacting.watch(memory, donors(turn.plan, seen, self._now()))
        served = refusal is None or deleting
        result = Result()
        if want.suspended:
            memory.forget_refusals()
        else:
            result = await self._apply(
                scene, service, the_plan, want=want, seen=seen, memory=memory, served=served
            )
        seen = replace(
            seen,
            foreign=memory.all_foreign,
            refused=memory.refused,
            refused_object=memory.refused_object,
            queued=result.queued > 0,
            internal=self._parts.balancing.failure((owner.namespace, owner.uid)),
        )  # the status says at once what came of the plan
        # A wait for quota is no news for as long as nothing was made.
        waits = [RESYNC_SECONDS, the_plan.look_again_after_seconds]
        # Nobody tells of our own writes, and each may be followed by another.
        acted = result.carried_out or result.late or result.failed
        waits += [SOON_SECONDS if acted else None]
        waits += [memory.look_again_after(self._clock())]
        waits += [LOOK_AGAIN_SECONDS if result.queued else None]
        made = status(
            service,
            generation=int(meta["generation"]),
            want=want,
            seen=seen,
            running=turn.plan,
            measured=self._parts.balancing.measured((owner.namespace, owner.uid)),
            previous=previous,
            url=endpoint_url(service, self._parts.settings),
            now=self._now().replace(microsecond=0),
            refusal=refusal,
        )
        waits += [await self._parts.reporting.write(raw, plain(previous), plain(made))]
        for happening in (*plan_events(turn), *result.done):
            await self._parts.events.tell(owner, happening)
        await self._warn(owner, memory)
        raise_first(result.failed)
        return max(0.0, min(wait for wait in waits if wait is not None))

    async def _observe(
        self, owner: Owner, service: InferenceService, memory: Memory, *, fresh: bool = False
    ) -> tuple[Observed, Scene]:
        parts = self._parts
        await parts.acting.adopt(owner)
        await parts.revisions.adopt(owner)
        held = parts.caches.pods.of(owner.namespace, owner.name)
        pods = tuple(each.record for each in held if each.controller == owner.uid)
        others = {
            each.record.slot: f"the Pod '{each.name}' is controlled by {each.controller_name}; "
            "its slot is not used"
            for each in held
            if each.controller not in (None, owner.uid)
            and not is_leftover(owner, each.controller_name)
        }
        now = self._clock()
        memory.foreign_slots = {
            slot: known for slot, known in memory.foreign_slots.items() if known[0] > now
        } | {slot: (now + FOREIGN_SLOT_SECONDS, said) for slot, said in others.items()}
        token = parts.master_key.token(owner.uid)
        drain = backend(service.spec.runtime.backend).drain
        states = await parts.workers.states(pods, drain=drain, token=token, fresh=fresh)
        routers = parts.caches.children[DEPLOYMENT].of(owner.namespace, owner.name)
        seen = Observed(
            pods=pods,
            states=states,
            revisions=parts.revisions.of(owner),
            router=next((r.record.router for r in routers if r.controller == owner.uid), None),
            foreign=memory.all_foreign,
            foreign_slots=frozenset(memory.foreign_slots),
            refused=memory.refused,
            refused_object=memory.refused_object,
        )
        return seen, Scene(owner, token, drain, states)

    async def _apply(
        self,
        scene: Scene,
        service: InferenceService,
        the_plan: Plan,
        *,
        want: Desired,
        seen: Observed,
        memory: Memory,
        served: bool,
    ) -> Result:
        """Children first, with the budget that the plan needs; then what pods are made from."""
        parts, owner, now = self._parts, scene.owner, self._clock()
        create = now >= memory.refused_until
        memory.refused_object = None
        if served and not want.deleting:
            rendered = children(
                owner,
                service,
                parts.settings,
                min_available=the_plan.min_available,
                router=self._live_router(owner),
            )
            applied = await parts.children.apply(owner, rendered)
            hashes = {role: want.revision(role) for role in (Role.PREFILL, Role.DECODE)}
            problem = await parts.revisions.ensure(owner, service, hashes)
            memory.foreign = (*applied.foreign, *([problem] if problem else []))
            # Pods of now would mount the token of the resource that is being collected.
            create = create and not applied.leftovers and problem is None
            creating = create and any(isinstance(a, CreatePod) for a in the_plan.actions)
            await parts.secrets.ensure(owner, memory, creating=creating)
            memory.refused_object = next(iter(applied.refused), None)
        key = (owner.namespace, owner.uid)
        asked = sum(isinstance(a, CreatePod) for a in the_plan.actions) if create else 0
        granted = parts.room.grant(key, seen.pods, asked)
        result = await parts.acting.act(scene, the_plan, creations=granted)
        result.queued = asked - granted
        for slot, said in result.foreign_slots.items():
            memory.foreign_slots[slot] = (now + FOREIGN_SLOT_SECONDS, said)
        memory.note(result, self._clock())
        if not create:
            result.late += now >= memory.refused_until
        return result

    async def _warn(self, owner: Owner, memory: Memory) -> None:
        for sentence in memory.all_foreign:
            await self._parts.events.tell(owner, Happening("NameTaken", sentence, "Applying", True))
        for sentence in filter(None, (memory.refused, memory.refused_object)):
            happening = Happening("Refused", sentence, "Applying", True)
            await self._parts.events.tell(owner, happening)

    def _live_router(self, owner: Owner) -> Mapping[str, Any] | None:
        found = self._parts.caches.children[DEPLOYMENT].of(owner.namespace, owner.name)
        # One without a controller is taken over as it is: its workers know the key that it shows.
        ours = (None, owner.uid)
        return next((each.record.live for each in found if each.controller in ours), None)

    def _forget(self, uid: str) -> None:
        self._memories.pop(uid, None)
        self._parts.children.forget(uid)
        self._parts.reporting.forget(uid)
        self._parts.room.forget(uid)

"""The balance of all services: reads what routers and workers say, tick after tick.

What is chosen from it is decided in `planning.balancing`; the pass over a service carries it out.
Each tick of the planner is a line of the ledger.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from steelyard_operator.api.load import read, read_status
from steelyard_operator.api.names import Role
from steelyard_operator.api.operations import RebalancingMode
from steelyard_operator.api.status import InferenceServiceStatus
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.backends.base import Flip
from steelyard_operator.backends.registry import backend
from steelyard_operator.errors import UserError
from steelyard_operator.kube.answers import Raw
from steelyard_operator.kube.caches import Caches
from steelyard_operator.kube.failures import failure_words
from steelyard_operator.kube.metrics import TICKS
from steelyard_operator.kube.queue import Key
from steelyard_operator.kube.routers import Routers
from steelyard_operator.kube.service_metrics import measure_service, unmeasure_service
from steelyard_operator.kube.services import Services
from steelyard_operator.kube.token import MasterKey
from steelyard_operator.kube.workers import Workers
from steelyard_operator.planning.balance.fit import StepSums
from steelyard_operator.planning.balance.signals import Split
from steelyard_operator.planning.balancing import COLD_START_SECONDS, Balance, Facts, tick
from steelyard_operator.planning.desiring import aimed
from steelyard_operator.planning.measured import Measured, measured
from steelyard_operator.planning.observed import Pod, WorkerState
from steelyard_operator.planning.split import WantedSplit

log = logging.getLogger(__name__)

# A service that is idle for so long is read less often.
IDLE_AFTER_SECONDS, IDLE_TICK_SECONDS = 300.0, 60.0
# Workers are asked for their step times so often, and so many of a role.
FIT_SECONDS, FIT_WORKERS = 15.0, 4
# So many services are read at a time; with all at once nothing else gets a turn for a second.
AT_A_TIME = 32
# One whose pods took longer to answer is read beside the others, and holds none of them up.
SLOW_SECONDS = 0.5
# A busy service's latencies and costs are told in its status so often.
TELL_SECONDS = 30.0


@dataclass(slots=True)
class _Service:
    """What is known of one service."""

    spec: InferenceService
    generation: int
    balance: Balance = field(default_factory=Balance)
    workers: Split | None = None
    """What was worked towards in the last tick."""
    read_at: float | None = None
    """When it was tried last."""
    heard_at: float | None = None
    """When a router answered last."""
    is_slow: bool = False
    """Its pods took long to answer in the last tick."""
    fitted_at: float = float("-inf")
    told_at: float = float("-inf")


class Balancing:
    """Ticks of all services, until cancelled."""

    def __init__(
        self,
        *,
        services: Services,
        caches: Caches,
        workers: Workers,
        routers: Routers,
        master_key: MasterKey,
        wake: Callable[[Key], None],
        ledger: Callable[[str], None],
        tick_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Make a balance that has read nothing yet.

        Args:
            services: the resources.
            caches: their pods.
            workers: asked for their step times.
            routers: asked for the demand.
            master_key: of the workers' tokens.
            wake: asks for a pass over a service.
            ledger: takes a line of JSON for each tick of a planner.
            tick_seconds: between two ticks of a service that is not idle.
            clock: in seconds.
            now: the time.
            sleep: waits for so many seconds.
        """
        self._services = services
        self._caches = caches
        self._workers = workers
        self._routers = routers
        self._master_key = master_key
        self._wake = wake
        self._ledger = ledger
        self._tick_seconds = tick_seconds
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._known: dict[Key, _Service] = {}
        self._failures: dict[Key, str] = {}
        self._slow: asyncio.Future[list[None]] | None = None

    async def run(self) -> None:
        """Tick until cancelled."""
        await self._caches.synced()
        try:
            while True:
                started = self._clock()
                await self.tick_all()
                await self._sleep(max(0.0, self._tick_seconds - (self._clock() - started)))
        finally:
            if self._slow is not None:
                self._slow.cancel()

    async def tick_all(self) -> None:
        """Read every service whose time has come."""
        keys = set(self._services.keys())
        for key in self._failures.keys() - keys:
            del self._failures[key]
        for key in self._known.keys() - keys:
            unmeasure_service(key[0], self._known.pop(key).spec.metadata.name)
        due = [key for key in keys if self._due(key)]
        slow = {key for key in due if key in self._known and self._known[key].is_slow}
        if slow and (self._slow is None or self._slow.done()):
            self._slow = self._in_turns(slow)
        await self._in_turns(key for key in due if key not in slow)

    def _in_turns(self, keys: Iterable[Key]) -> asyncio.Future[list[None]]:
        left = iter(keys)

        async def take_turns() -> None:
            for key in left:
                await self._guarded(key)

        return asyncio.gather(*(take_turns() for _ in range(AT_A_TIME)))

    def wanted(self, key: Key) -> WantedSplit | None:
        """Return the split that was chosen for a service in its last tick."""
        known = self._known.get(key)
        return known.balance.wanted if known else None

    def measured(self, key: Key) -> Measured | None:
        """Return what its status tells of latencies, costs and decisions."""
        known = self._known.get(key)
        return measured(known.spec, known.balance) if known else None

    def failure(self, key: Key) -> str | None:
        """Return what went wrong in a service's last tick."""
        return self._failures.get(key)

    def _due(self, key: Key) -> bool:
        known = self._known.get(key)
        if known is None or known.read_at is None:
            return True
        balance, workers = known.balance, known.workers
        idle = balance.idle_seconds >= IDLE_AFTER_SECONDS and balance.wanted is None
        # A request that waits at zero must not wait for long.
        at_zero = workers is not None and workers.total == 0
        wait = IDLE_TICK_SECONDS if idle and not at_zero else self._tick_seconds
        return self._clock() - known.read_at >= wait * 0.9

    async def _guarded(self, key: Key) -> None:
        """One service's trouble is its own."""
        raw = self._services.get(key)
        if raw is None or raw["metadata"].get("deletionTimestamp") is not None:
            return
        before, began = self._failures.pop(key, None), self._clock()
        try:
            await self._tick(key, raw)
        except UserError:
            pass  # the pass over it says so in its status
        except Exception as error:
            said = self._failures[key] = failure_words(error)
            if said != before:
                log.exception("%s/%s: not balanced in this tick", key[0], raw["metadata"]["name"])
            if key in self._known:
                balance = replace(self._known[key].balance, wanted=None)
                self._known[key].balance = balance
        if key in self._known:
            self._known[key].is_slow = self._clock() - began > SLOW_SECONDS
        if self._failures.get(key) != before:
            self._wake(key)

    async def _tick(self, key: Key, raw: Raw) -> None:
        known = self._service(key, raw)
        target = aimed(read_status(raw))
        if target is None:
            return  # the first pass decides with how many workers a service begins
        known.workers = Split(target.prefill, target.decode)
        namespace, name = key[0], raw["metadata"]["name"]
        routers = [held.record for held in self._caches.routers.of(namespace, name)]
        pods = [
            held.record
            for held in self._caches.pods.of(namespace, name)
            if held.controller == key[1]
        ]
        readings = await self._routers.readings(pod for pod in routers if not pod.deleting)
        states = await self._fit_states(key, known, pods)
        heard_at, now = known.heard_at, self._clock()
        known.read_at = now
        if readings:
            known.heard_at = now
        engine = backend(known.spec.spec.runtime.backend)
        facts = Facts(
            now=self._now(),
            # What came while no router answered is in the next answer, and so is its time.
            seconds=self._tick_seconds if heard_at is None else now - heard_at,
            routers=readings,
            workers=known.workers,
            paid=_paid(pods),
            steps={uid: state.steps for uid, state in states.items() if state.steps is not None},
            cold_start_seconds=_cold_start(pods),
            about=f"{namespace}/{name}",
        )
        before = known.balance.wanted
        made = tick(known.spec, known.balance, facts, can_flip=engine.flip is not Flip.NONE)
        known.balance = made.balance
        TICKS.labels(made.reason).inc()
        told = measured(known.spec, known.balance)
        measure_service(known.spec, told, facts.paid, facts.seconds)
        if made.ledger is not None:
            self._ledger(made.ledger)
        wanted = known.balance.wanted
        mode = known.spec.spec.rebalancing.mode
        # A choice may have to wait for the end of a plan, so a pass is asked for until it is made.
        acts = wanted is not None and (mode is RebalancingMode.AUTO or wanted != before)
        busy = known.balance.idle_seconds == 0 and now - known.told_at >= TELL_SECONDS
        if acts or busy:
            known.told_at = now
            self._wake(key)

    def _service(self, key: Key, raw: Raw) -> _Service:
        generation = int(raw["metadata"]["generation"])
        known = self._known.get(key)
        if known is None:
            told = (read_status(raw) or InferenceServiceStatus()).decisions
            known = _Service(read(raw), generation, Balance(decisions=tuple(told)))
            self._known[key] = known
        elif known.generation != generation:
            known.spec, known.generation = read(raw), generation
        return known

    async def _fit_states(
        self, key: Key, known: _Service, pods: list[Pod]
    ) -> dict[str, WorkerState]:
        """Ask a few workers of each role what their steps took, where it is time."""
        now = self._clock()
        drain = backend(known.spec.spec.runtime.backend).drain
        idle = known.balance.idle_seconds > 0 and known.balance.fit != StepSums()
        if idle or now - known.fitted_at < FIT_SECONDS:
            return {}
        known.fitted_at = now
        asked = {
            pod.uid: pod
            for role in Role
            for pod in [p for p in pods if role in p.roles and p.ready][:FIT_WORKERS]
        }
        token = self._master_key.token(key[1])
        return await self._workers.states(asked.values(), drain=drain, token=token, fresh=True)


def _paid(pods: list[Pod]) -> Split:
    """Return all workers that there are; one that serves both, or drains, counts for decode."""
    there = [pod for pod in pods if pod.phase not in ("Succeeded", "Failed")]
    prefill = sum(1 for pod in there if pod.roles == {Role.PREFILL})
    return Split(prefill, len(there) - prefill)


def _cold_start(pods: list[Pod]) -> float:
    """Return how long the quickest worker took from its creation to its readiness."""
    times = [
        (pod.ready_changed_at - pod.created_at).total_seconds()
        for pod in pods
        if pod.ready and pod.ready_changed_at is not None and pod.restarts == 0
    ]
    return max(1.0, min(times)) if times else COLD_START_SECONDS

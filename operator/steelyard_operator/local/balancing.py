"""The operator's planner on one machine: workers change their role; none is added or removed.

A worker process costs nothing by itself here, and one more would only take the others' cores.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from steelyard_operator.api.names import Role
from steelyard_operator.api.operations import RebalancingMode, Switch
from steelyard_operator.api.v1alpha1 import InferenceService
from steelyard_operator.local.desired import Desired, Worker
from steelyard_operator.local.http_client import HttpError, get_json, request
from steelyard_operator.planning.balance.readings import RouterReading
from steelyard_operator.planning.balance.signals import Split
from steelyard_operator.planning.balancing import Balance, Facts, tick
from steelyard_operator.planning.bounding import is_planned
from steelyard_operator.planning.observed import WorkerState

Read = TypeVar("Read")

TICK_SECONDS = 5.0
POLL_SECONDS = 0.2
ANSWER_SECONDS = 5.0
# After the deadline of a drain what is left moves to others.
DRAIN_GRACE_SECONDS = 10.0
# How long an act takes to help: a drain and a new role.
FLIP_SECONDS = 5.0

CHOSEN = (Role.PREFILL, Role.DECODE)


def can_balance(service: InferenceService) -> bool:
    """Whether the file leaves something to choose where no worker is added or removed."""
    ranged = all(r.max_replicas is not None for r in (service.spec.prefill, service.spec.decode))
    return ranged and is_planned(service) and service.spec.rebalancing.flip is Switch.ENABLED


class LocalBalancing:
    """Reads the router and the workers tick after tick, and flips a worker where it pays."""

    def __init__(
        self,
        service: InferenceService,
        desired: Desired,
        *,
        token: str,
        tell: Callable[[str], None],
        tick_seconds: float = TICK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare; `run` begins.

        Args:
            service: as the file says it.
            desired: its processes.
            token: the service's token.
            tell: gets a sentence for each decision and its end.
            tick_seconds: between two readings.
            clock: monotonic seconds.
            sleep: waits for so many seconds.
        """
        most = len(desired.workers) * max(
            service.spec.prefill.tensor_parallel, service.spec.decode.tensor_parallel
        )
        capacity = service.spec.capacity.model_copy(update={"max_accelerators": most})
        spec = service.spec.model_copy(update={"capacity": capacity})
        self._service = service.model_copy(update={"spec": spec})
        self._desired = desired
        self._token = token
        self._tell = tell
        self._tick_seconds = tick_seconds
        self._clock = clock
        self._sleep = sleep
        self._balance = Balance()
        self._read_at: float | None = None
        self._told: Split | None = None

    async def run(self) -> None:
        """Tick until cancelled."""
        flipped_at = float("-inf")
        while True:
            await self._sleep(self._tick_seconds)
            move = await self._tick()
            if move is None:
                continue
            donor, to = move
            if self._clock() - flipped_at < self._service.spec.rebalancing.cooldown_seconds:
                continue
            await self._flip(donor, to)
            flipped_at = self._clock()

    async def _tick(self) -> tuple[Worker, Role] | None:
        """Return the worker that should change its role, and to which."""
        states = await self._states()
        now = Split(*(sum(s.role is role for s in states.values()) for role in CHOSEN))
        reading = await self._reading()
        read_at, self._read_at = self._read_at, self._clock()
        facts = Facts(
            now=datetime.now(UTC),
            seconds=self._tick_seconds if read_at is None else self._read_at - read_at,
            routers=[] if reading is None else [reading],
            workers=now,
            paid=now,
            steps={name: state.steps for name, state in states.items() if state.steps is not None},
            cold_start_seconds=FLIP_SECONDS,
        )
        self._balance = tick(self._service, self._balance, facts, can_flip=True).balance
        wanted = self._balance.wanted
        to = None if wanted is None else direction(now, Split(wanted.prefill, wanted.decode))
        if wanted is None or to is None:
            self._told = None
            return None
        if self._service.spec.rebalancing.mode is RebalancingMode.RECOMMEND:
            split = Split(wanted.prefill, wanted.decode)
            if split != self._told:
                self._tell(f"recommended: {split.prefill}+{split.decode}; {wanted.message}")
            self._told = split
            return None
        donors = [
            worker
            for worker in self._desired.workers
            if (state := states.get(worker.wanted.name)) is not None
            and state.phase == "ready"
            and state.role in CHOSEN
            and state.role is not to
        ]
        if not donors:
            return None
        donor = min(donors, key=lambda worker: states[worker.wanted.name].in_flight)
        self._tell(f"{donor.wanted.name} becomes a {to.wire} worker: {wanted.message}")
        return donor, to

    async def _flip(self, donor: Worker, to: Role) -> None:
        """Drain a worker and give it its new role; the old one again where that fails."""
        began = self._clock()
        name = donor.wanted.name
        state = await self._state(donor)
        if state is None or state.role is None:
            return  # It has just died; its process starts again in its first role.
        epoch, seconds = state.epoch + 1, self._desired.drain_seconds
        try:
            await self._post(donor, "/drain", {"epoch": epoch, "deadlineSeconds": seconds})
            if await self._drained(donor, seconds + DRAIN_GRACE_SECONDS):
                await self._post(donor, "/role", {"role": to.wire, "epoch": epoch})
                self._tell(f"{name} serves {to.wire} after {self._clock() - began:.1f} s")
                return
            await self._post(donor, "/role", {"role": state.role.wire, "epoch": epoch})
            self._tell(f"{name} stays a {state.role.wire} worker: it did not drain")
        except HttpError as error:
            self._tell(f"{name} did not change its role: {error}")

    async def _drained(self, worker: Worker, seconds: float) -> bool:
        end = self._clock() + seconds
        while self._clock() < end:
            state = await self._state(worker)
            if state is not None and state.phase == "drained":
                return True
            await self._sleep(POLL_SECONDS)
        return False

    async def _states(self) -> Mapping[str, WorkerState]:
        workers = self._desired.workers
        found = await asyncio.gather(*map(self._state, workers))
        return {
            worker.wanted.name: state
            for worker, state in zip(workers, found, strict=True)
            if state is not None
        }

    async def _state(self, worker: Worker) -> WorkerState | None:
        document = await self._read(f"{worker.admin_url}/state")
        return _understood(WorkerState.read, document)

    async def _reading(self) -> RouterReading | None:
        document = await self._read(f"{self._desired.url}/router/signals")
        return _understood(RouterReading.read, document)

    async def _read(self, url: str) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, document = await get_json(url, token=self._token)
        except (HttpError, TimeoutError):
            return None
        return document if status == 200 and isinstance(document, dict) else None

    async def _post(self, worker: Worker, path: str, body: dict[str, Any]) -> None:
        url = f"{worker.admin_url}{path}"
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                request("POST", url, body=body, token=self._token) as answer,
            ):
                content = await answer.read()
        except TimeoutError:
            raise HttpError(f"{url} does not answer") from None
        if answer.status >= 300:
            raise HttpError(f"{url} answered {answer.status}: {content.decode(errors='replace')}")


def _understood(
    read: Callable[[dict[str, Any]], Read], document: dict[str, Any] | None
) -> Read | None:
    """Return what an answer says; one of another form is no answer."""
    try:
        return None if document is None else read(document)
    except (KeyError, TypeError, ValueError):
        return None


def direction(now: Split, wanted: Split) -> Role | None:
    """Return the role that a worker of the other one should take; None where none should."""
    if wanted.prefill > now.prefill and wanted.decode < now.decode:
        return Role.PREFILL
    if wanted.decode > now.decode and wanted.prefill < now.prefill:
        return Role.DECODE
    return None

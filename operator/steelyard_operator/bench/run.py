"""The order of a run: fill the cluster, change services, leave them alone, restart the operator."""

import asyncio
import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steelyard_operator.bench.audit import AuditLog, about_idle, counted
from steelyard_operator.bench.changes import Changes, Sightings
from steelyard_operator.bench.control_plane import ControlPlane, control_plane
from steelyard_operator.bench.operating import Operator, operating
from steelyard_operator.bench.options import Options
from steelyard_operator.bench.setting import make_services, prepare
from steelyard_operator.errors import OperatorError
from steelyard_operator.kube.caches import WORKERS
from steelyard_operator.kube.client import Client
from steelyard_operator.kube.informer import Informer
from steelyard_operator.kube.kinds import POD
from steelyard_operator.testing.programs import running

FILL_SECONDS, LAST_POD_SECONDS, STEADY_SECONDS = 300.0, 30.0, 300.0
# So many services are made at a time.
BATCH = 20
# Left alone for so long without a request about an idle service, the operator has settled.
QUIET_SECONDS, SETTLE_SECONDS = 10.0, 120.0


@dataclass(slots=True)
class Run:
    """One run, and what was measured so far."""

    options: Options
    plane: ControlPlane
    client: Client
    sightings: Sightings = field(default_factory=Sightings)
    figures: dict[str, Any] = field(default_factory=dict)
    _audit: AuditLog = field(init=False)

    def __post_init__(self) -> None:
        """Begin to read the audit log."""
        self._audit = AuditLog(self.plane.audit_log)

    async def measure(self, folder: Path) -> None:
        """Measure everything."""
        kubeconfig = prepare(self.plane, self.options)
        async with operating(folder, kubeconfig, "operator") as operator:
            await self._fill(operator)
            await self._change(operator)
            await self._leave_alone(operator)
            self._note_memory(operator)
            self.figures["ended_by_itself"] = operator.restarts
            ended_at = time.monotonic()
        async with operating(folder, kubeconfig, "operator-restarted") as operator:
            await self._restart("restart", operator, ended_at)
            ended_at = time.monotonic()
            operator.process.kill()
        async with operating(folder, kubeconfig, "operator-after-kill") as operator:
            await self._restart("restart_after_kill", operator, ended_at)

    async def _fill(self, operator: Operator) -> None:
        options, began = self.options, time.monotonic()
        _say(f"{options.services} services of {options.workers} workers are started")
        # All at once would measure how scheduler, controllers and kwok share two cores.
        for first in range(0, options.services, BATCH):
            numbers = range(first, min(first + BATCH, options.services))
            await make_services(self.client, options, numbers)
            wanted = options.workers * numbers.stop // options.services

            async def ready(wanted: int = wanted) -> bool:
                operator.look_after()
                return self.sightings.ready >= wanted

            await _until(ready, FILL_SECONDS, f"{wanted} workers are ready")
            if numbers.stop % 200 == 0:
                _say(f"  {wanted} workers after {time.monotonic() - began:.0f} s")

        async def steady() -> bool:
            return await operator.is_steady(options)

        await _until(steady, STEADY_SECONDS, "all routers are read")
        self.figures["fill_seconds"] = time.monotonic() - began
        self._note_memory(operator)
        self.figures["fill_cpu_seconds"] = operator.cpu_seconds()
        self.figures["fill_requests"] = counted(self._audit.since_last()).total()

    async def _change(self, operator: Operator) -> None:
        options = self.options
        _say(f"{options.rate:g} changes a second for {options.seconds:g} s")
        before, began = operator.cpu_seconds(), time.monotonic()
        changes = Changes(self.client, self.sightings, options)
        await changes.run()
        cpu = (operator.cpu_seconds() - before) / (time.monotonic() - began)

        async def all_seen() -> bool:
            operator.look_after()
            return self.sightings.awaited == 0

        with contextlib.suppress(OperatorError):
            await _until(all_seen, LAST_POD_SECONDS, "every change has its pod")
        # A change without a pod is as slow as it can be.
        missed = [math.inf] * self.sightings.awaited
        times = sorted([*self.sightings.latencies, *missed])
        for percent in (50, 99, 100):
            name = "max" if percent == 100 else f"p{percent}"
            self.figures[f"change_to_pod_{name}_seconds"] = _percentile(times, percent)
        self.figures |= {
            "changes": changes.made,
            "changes_that_make_a_pod": len(times),
            "changes_without_a_pod": self.sightings.awaited,
            "bench_behind_seconds": changes.behind,
            "change_cpu_percent": 100 * cpu,
            "requests_per_change": counted(self._audit.since_last()).total() / changes.made,
        }
        self._note_memory(operator)

    async def _leave_alone(self, operator: Operator) -> None:
        options = self.options
        busy = sum(options.is_busy(options.name(number)) for number in range(options.services))
        idle = options.services - busy
        await self._settle()
        _say(f"{options.idle_seconds:g} s without a change; {idle} services are idle")
        before, began = operator.cpu_seconds(), time.monotonic()
        await asyncio.sleep(options.idle_seconds)
        minutes = (time.monotonic() - began) / 60
        events = list(self._audit.since_last())
        named, shared = about_idle(events, options.is_busy)
        each = named.total() / max(1, idle) + shared.total() / options.services
        self.figures |= {
            "requests_per_idle_service_per_minute": each / minutes,
            "idle_services": idle,
            "idle_requests": dict(named),
            "shared_requests": dict(shared),
            "all_requests_per_minute": len(events) / minutes,
            "idle_cpu_percent": 100 * (operator.cpu_seconds() - before) / (60 * minutes),
        }

    async def _settle(self) -> None:
        """Wait until the changes' consequences are over; one that never settles is measured too."""
        deadline = quiet_since = time.monotonic()
        deadline += SETTLE_SECONDS
        while time.monotonic() < min(deadline, quiet_since + QUIET_SECONDS):
            await asyncio.sleep(1.0)
            named, _ = about_idle(self._audit.since_last(), self.options.is_busy)
            if named:
                quiet_since = time.monotonic()

    async def _restart(self, name: str, operator: Operator, ended_at: float) -> None:
        async def steady() -> bool:
            return await operator.is_steady(self.options)

        await _until(steady, STEADY_SECONDS, "the operator has seen to every service")
        self.figures[f"{name}_seconds"] = time.monotonic() - ended_at
        self.figures[f"{name}_requests"] = dict(_most(counted(self._audit.since_last())))
        self.figures[f"{name}_cpu_seconds"] = operator.cpu_seconds()
        self._note_memory(operator)

    def _note_memory(self, operator: Operator) -> None:
        operator.look_after()
        now, highest = operator.memory_mb()
        self.figures["memory_mb"] = max(highest, self.figures.get("memory_mb", 0.0))
        self.figures.setdefault("memory_mb_over_time", []).append(round(now))


@asynccontextmanager
async def run(options: Options, folder: Path) -> AsyncIterator[Run]:
    """Give a run on a cluster of its own, with stand-ins for all pods."""
    async with control_plane(options.programs, folder) as plane:
        command = [sys.executable, "-m", "steelyard_operator.bench.standins"]
        command += ["--kubeconfig", str(plane.kubeconfig("standins"))]
        command += ["--busy-percent", str(options.busy_percent)]
        with running(command, folder / "standins.log") as standins:
            async with await plane.client("bench") as client:
                made = Run(options, plane, client)
                informer = Informer(client, POD, None, made.sightings.store, selector=WORKERS)
                watching = asyncio.create_task(informer.run())
                await informer.synced.wait()
                if standins.poll() is not None:
                    said = (folder / "standins.log").read_text().strip().splitlines()[-1]
                    raise OperatorError(f"no stand-ins for pods: {said}")
                try:
                    yield made
                finally:
                    watching.cancel()


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> float:
    """Wait for a condition; returns for how long.

    Raises:
        OperatorError: it did not come true in that time.
    """
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > seconds:
            raise OperatorError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.5)
    return time.monotonic() - began


def _percentile(times: list[float], percent: int) -> float | None:
    """Return a percentile; None where there is none, or where it is beyond all patience."""
    found = times[max(0, math.ceil(len(times) * percent / 100) - 1)] if times else math.inf
    return found if math.isfinite(found) else None


def _most(counts: Counter[str], kinds: int = 6) -> list[tuple[str, int]]:
    return counts.most_common(kinds)


def _say(what: str) -> None:
    print(what, flush=True)

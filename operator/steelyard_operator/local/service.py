"""One service on this machine: the loop observe -> plan -> apply, and the ordered end.

The decisions are `planning`'s; this module only carries them out.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from steelyard_operator.errors import OperatorError, UserError
from steelyard_operator.local.desired import Desired
from steelyard_operator.local.membership import Member, MembershipFile
from steelyard_operator.local.observing import RouterView, observe_router, observe_workers
from steelyard_operator.local.planning import (
    WRONG_INPUT_EXIT_CODE,
    GiveUp,
    Kill,
    Seen,
    Start,
    Wanted,
    plan,
)
from steelyard_operator.local.processes import ProcessTable

# While something starts, a person waits; while everything serves, the cores belong to the model.
STARTING_PERIOD_SECONDS = 0.2
SERVING_PERIOD_SECONDS = 1.0

# After its own drain a process writes its last log lines and frees its memory.
EXIT_GRACE_SECONDS = 5.0

SENTENCE = "steelyard-runtime: "
"""How the line begins in which a process says what is wrong with its input."""

LISTED_PHASES = ("ready", "draining", "drained")


@dataclass(frozen=True, slots=True)
class View:
    """What a person is told about one process."""

    name: str
    role: str
    phase: str  # of docs/contract.md; or starting, waiting (for workers), silent, restarting


class LocalService:
    """Keeps the processes of one service running."""

    def __init__(
        self,
        desired: Desired,
        table: ProcessTable,
        membership: MembershipFile,
        *,
        token: str,
        executables: Mapping[str, tuple[str, ...]],
        environment: Mapping[str, str],
        on_view: Callable[[list[View]], None] = lambda _views: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `run` starts the processes.

        Args:
            desired: the processes.
            table: where they run; its clock is `clock`.
            membership: the file that the router watches.
            token: the service's token.
            executables: what to run for the first word of a rendered command.
            environment: what every process gets beside its rendered environment.
            on_view: gets the state of all processes after each pass.
            clock: monotonic seconds.
        """
        self._desired = desired
        self._table = table
        self._membership = membership
        self._token = token
        self._executables = executables
        self._environment = environment
        self._on_view = on_view
        self._clock = clock
        self._members: dict[str, Member] = {}  # as each worker described itself last
        self._router: RouterView | None = None  # the last answer of the router
        self.ready = asyncio.Event()
        """Set once all processes were ready together; never cleared."""

    async def run(self) -> None:
        """Observe, plan and apply until cancelled.

        Raises:
            UserError: a process refused its input before the service was ever ready.
            OperatorError: a process kept ending before the service was ever ready.
        """
        while True:
            members, view = await asyncio.gather(
                observe_workers(self._desired.workers, self._token),
                observe_router(self._desired.url),
            )
            all_ready = self._note(members, view)
            self._apply()
            period = SERVING_PERIOD_SECONDS if all_ready else STARTING_PERIOD_SECONDS
            self._table.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._table.changed.wait(), period)

    async def stop(self) -> None:
        """End all processes in order; each may finish what it has."""
        grace = self._desired.drain_seconds + EXIT_GRACE_SECONDS
        for names in self._desired.stop_order:
            await self._table.stop(names, grace_seconds=grace)

    def _note(self, members: list[Member], router: RouterView | None) -> bool:
        """Take in one round of answers: for the plan, the router and the person who watches.

        Returns whether all processes are ready.
        """
        self._router = router or self._router
        for member in members:
            self._table.note_answer(member.id)
            self._members[member.id] = member
        if router is not None and self._desired.router.name in self._table.observe():
            self._table.note_answer(self._desired.router.name)
        seen = self._table.observe()
        phases = {
            process.name: self._phase(process, seen.get(process.name))
            for process in self._desired.processes
        }
        self._membership.write([m for m in self._members.values() if phases[m.id] in LISTED_PHASES])
        all_ready = all(phase == "ready" for phase in phases.values())
        if all_ready:
            self.ready.set()
        roles = {worker.wanted.name: worker.role.wire for worker in self._desired.workers}
        roles |= {member.id: member.role for member in self._members.values()}
        self._on_view(
            [View(name, roles.get(name, "router"), phase) for name, phase in phases.items()]
        )
        return all_ready

    def _phase(self, process: Wanted, seen: Seen | None) -> str:
        if seen is None:
            return "starting"
        if seen.exit_code is not None:
            return "restarting"
        if seen.answered_at is None:
            return "starting"
        # One late answer is no reason to take a worker from the router: the kubelet's rule.
        if self._clock() - seen.answered_at > process.container.readiness.patience_seconds:
            return "silent"
        if process is self._desired.router:
            # The first request must find every worker; later the router serves with what there is.
            wanted = {worker.wanted.name for worker in self._desired.workers}
            healthy = self._router.healthy if self._router else frozenset()
            enough = bool(healthy) if self.ready.is_set() else healthy >= wanted
            return "ready" if enough else "waiting"
        return self._members[process.name].phase

    def _apply(self) -> None:
        by_name = {process.name: process for process in self._desired.processes}
        actions = plan(
            self._desired.processes,
            self._table.observe(),
            was_ready=self.ready.is_set(),
            now=self._clock(),
        )
        for action in actions:
            match action:
                case Start(name):
                    self._start(by_name[name])
                case Kill(name):
                    self._table.kill(name)
                case GiveUp(name, exit_code):
                    raise self._cannot_start(name, exit_code)

    def _start(self, process: Wanted) -> None:
        first, *rest = process.container.command
        command = (*self._executables.get(first, (first,)), *rest)
        environment = {**self._environment, **process.container.environment}
        self._table.start(process.name, command, environment)

    def _cannot_start(self, name: str, exit_code: int) -> OperatorError:
        lines = [line for line in self._table.tail(name) if line]
        sentences = [line for line in lines if line.startswith(SENTENCE)]
        if exit_code == WRONG_INPUT_EXIT_CODE and sentences:
            return UserError(sentences[-1].removeprefix(SENTENCE))
        how = f"exit code {exit_code}" if exit_code >= 0 else f"signal {-exit_code}"
        last = "\n".join(["", *lines[-10:]]) if lines else ""
        return OperatorError(f"{name} does not start, it ended with {how}{last}")

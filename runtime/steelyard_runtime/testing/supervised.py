"""A whole service for fault tests: real workers and a router, and somebody who restarts the dead.

The supervisor does what local mode does: a worker that ended is started again at the same ports,
and the membership file lists the workers that are ready. Faults of transfer are switched per worker
(`transfer/faults.py`).
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from steelyard_runtime.testing.processes import (
    Router,
    Worker,
    free_port,
    thread_states,
    wait_for,
)
from steelyard_runtime.transfer import faults

TOKEN = "the-service-of-a-test"  # noqa: S105  # protects nothing
POLL_SECONDS = 0.05
HELD = ("referenced", "leased", "quarantined")


@dataclass(slots=True)
class Slot:
    """One worker of the service, whichever process it is now."""

    name: str
    role: str
    ports: tuple[int, int, int]
    fault_file: Path
    worker: Worker
    listed: dict[str, str] | None = None  # its entry in the membership file
    stopped: list[int] = field(default_factory=list)  # processes under SIGSTOP
    restarts: int = 0

    def inject(self, fault: str) -> None:
        """Switch this worker's transfer fault; the empty string is none."""
        faults.waiting_file(self.fault_file).unlink(missing_ok=True)
        fresh = self.fault_file.with_suffix(".new")
        fresh.write_text(fault)
        fresh.replace(self.fault_file)

    @property
    def pull_waits(self) -> bool:
        """Whether a pull has met the fault `hold` or `stall` since it was injected."""
        return faults.waiting_file(self.fault_file).exists()

    def kill(self) -> None:
        """SIGKILL the worker; returns when its engine process has ended of it."""
        engine = self.worker.engine_pid()
        self.worker.kill()
        wait_for(lambda: thread_states(engine) <= {"Z"}, "the end of an engine without its worker")

    def kill_engine(self) -> None:
        """SIGKILL the engine process; returns when the worker has ended of it."""
        worker = self.worker
        os.kill(worker.engine_pid(), signal.SIGKILL)
        wait_for(lambda: worker.process.poll() is not None, "the end of a worker without engine")

    def stop(self) -> None:
        """SIGSTOP both processes; returns when all their threads have stopped."""
        self.stopped = [self.worker.process.pid, self.worker.engine_pid()]
        for pid in self.stopped:
            os.kill(pid, signal.SIGSTOP)
        wait_for(
            lambda: all(thread_states(pid) == {"T"} for pid in self.stopped), "stopped processes"
        )

    def go_on(self) -> None:
        """SIGCONT what was stopped."""
        for pid in self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.stopped = []

    def held_blocks(self) -> dict[str, int]:
        """Return the blocks that are not zero among referenced, leased and quarantined."""
        blocks = self.worker.state()["blocks"]
        return {state: blocks[state] for state in HELD if blocks[state]}


class SupervisedService:
    """One prefill worker, two decode workers, a router and a supervisor."""

    def __init__(
        self,
        model: str,
        folder: Path,
        *,
        flags: Sequence[str],
        environment: Mapping[str, str] | None = None,
        served_model_name: str = "chaos",
    ) -> None:
        self._model = model
        self._folder = folder
        self._flags = [*flags, "--served-model-name", served_model_name]
        self._environment = dict(environment or {})
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self.router = Router(served_model_name, folder=folder)
        roles = {"prefill": "prefill", "decode-a": "decode", "decode-b": "decode"}
        self.slots = {name: self._slot(name, role) for name, role in roles.items()}
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    @property
    def prefill(self) -> Slot:
        """The prefill worker."""
        return self.slots["prefill"]

    @property
    def decodes(self) -> list[Slot]:
        """The decode workers."""
        return [slot for slot in self.slots.values() if slot.role == "decode"]

    def _slot(self, name: str, role: str) -> Slot:
        ports = (free_port(), free_port(), free_port())
        fault_file = self._folder / f"{name}.fault"
        fault_file.write_text("")
        return Slot(name, role, ports, fault_file, self._start(name, role, ports, fault_file))

    def _start(self, name: str, role: str, ports: tuple[int, int, int], fault_file: Path) -> Worker:
        return Worker(
            self._model,
            log=self._folder / f"{name}.log",
            role=role,
            token=TOKEN,
            flags=self._flags,
            environment={**self._environment, faults.VARIABLE: f"@{fault_file}"},
            ports=ports,
        )

    def _supervise(self) -> None:
        while not self._ending.wait(POLL_SECONDS):
            for slot in self.slots.values():
                self._look_after(slot)

    def _look_after(self, slot: Slot) -> None:
        if slot.stopped:
            return
        if slot.worker.process.poll() is not None:
            self._list(slot, None)
            slot.restarts += 1
            slot.worker.stop()
            slot.worker = self._start(slot.name, slot.role, slot.ports, slot.fault_file)
        elif slot.listed is None:
            # It may end while it is asked.
            with contextlib.suppress(OSError, RuntimeError):
                if slot.worker.is_ready():
                    self._list(slot, slot.worker.member(slot.name))

    def _list(self, slot: Slot, member: dict[str, str] | None) -> None:
        if slot.listed == member:
            return
        slot.listed = member
        self.router.write_members([each.listed for each in self.slots.values() if each.listed])

    def wait_whole(self, seconds: float = 120.0) -> None:
        """Wait until every worker is ready and the router sends requests to it.

        Raises:
            TimeoutError: somebody is missing.
        """

        def whole() -> bool:
            if not all(slot.listed for slot in self.slots.values()):
                return False
            names = self.slots
            healthy = [
                self.router.metric("steelyard_router:worker_healthy", worker=name) for name in names
            ]
            return healthy == [1.0] * len(names)

        self.router.wait_ready()
        wait_for(whole, "all workers in the router", seconds)

    def settle_seconds(self, limit_seconds: float) -> float:
        """Wait until no worker holds a block; return how long it took.

        Raises:
            TimeoutError: blocks are still held; the message says which.
        """
        started_at = time.monotonic()
        held: dict[str, Any] = {}

        def settled() -> bool:
            for slot in self.slots.values():
                try:
                    held[slot.name] = slot.held_blocks()
                except OSError:
                    held[slot.name] = {}  # it restarts, so it holds nothing
            return not any(held.values())

        try:
            wait_for(settled, "no block held", limit_seconds)
        except TimeoutError:
            raise TimeoutError(f"held after {limit_seconds} s: {held}") from None
        return time.monotonic() - started_at

    def calm(self) -> None:
        """Take all faults back."""
        for slot in self.slots.values():
            slot.inject("")
            slot.go_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._supervisor.join()
        self.calm()
        for server in (self.router, *(slot.worker for slot in self.slots.values())):
            server.stop()

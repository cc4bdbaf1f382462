"""The step thread's loop: mailbox, step, frames to the HTTP process.

The reader thread answers `state` itself, from a snapshot that this loop leaves after every step,
so that neither a health check nor a scrape waits for a forward pass.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from steelyard_runtime.core.roles import Phase, Role
from steelyard_runtime.engine.engine import Engine
from steelyard_runtime.engine.failure import Failure
from steelyard_runtime.engine.mailbox import Mailbox
from steelyard_runtime.errors import RequestError
from steelyard_runtime.ipc.messages import (
    Abort,
    AddRequest,
    Call,
    EngineStats,
    Output,
    Outputs,
    Reply,
    Shutdown,
)

log = logging.getLogger(__name__)

# Stats travel at most this often with outputs; a scrape asks for fresh ones.
STATS_INTERVAL_NS = 100_000_000
IDLE_SECONDS = 1.0
# With leases or pulls outstanding their ends should show soon, even without a wake-up.
TRANSFER_IDLE_SECONDS = 0.02


class EngineLoop:
    """Owns the engine; `run` returns after `Shutdown`."""

    def __init__(
        self,
        engine: Engine,
        mailbox: Mailbox,
        send: Callable[[Any], None],
        clock_ns: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._mailbox = mailbox
        self._send = send
        self._clock_ns = clock_ns
        self._epoch = 0
        self._drain_deadline_ns: int | None = None
        self._stats_at_ns = 0
        self._snapshot: dict[str, Any] = {}
        self._snapshot_lock = threading.Lock()
        self._leave_snapshot()

    def run(self) -> None:
        """Step until told to stop."""
        while True:
            for message in self._mailbox.take(self._patience_seconds()):
                if isinstance(message, Shutdown):
                    return
                self._handle(message)
            self._end_overdue_drain()
            items = self._engine.step()
            self._leave_snapshot()
            now_ns = self._clock_ns()
            due = now_ns - self._stats_at_ns >= STATS_INTERVAL_NS
            if items or due:
                stats = self._engine.statistics.take() if due else None
                self._stats_at_ns = now_ns if due else self._stats_at_ns
                self._tell(items, stats)

    def _tell(self, items: list[Output], stats: EngineStats | None) -> None:
        """Send what a step brought; an output that no frame can hold ends its sequence alone."""
        try:
            self._send(Outputs(items, stats))
            return
        except (TypeError, ValueError, OverflowError) as error:
            log.warning("outputs cannot be written; one by one", exc_info=error)
        for item in items:
            try:
                self._send(Outputs([item]))
            except (TypeError, ValueError, OverflowError) as error:
                self._engine.abort(item.request_id)
                self._send(Outputs([Failure("output", error).output(item.request_id)]))

    def state(self) -> dict[str, Any]:
        """Return the newest snapshot; safe from any thread."""
        with self._snapshot_lock:
            return self._snapshot

    def _patience_seconds(self) -> float:
        if self._engine.ran:
            return 0.0
        if self._engine.awaits_event or self._drain_deadline_ns is not None:
            return TRANSFER_IDLE_SECONDS
        return IDLE_SECONDS

    def _handle(self, message: AddRequest | Abort | Call) -> None:
        match message:
            case AddRequest():
                self._engine.add(message)
            case Abort():
                self._engine.abort(message.request_id)
            case Call():
                self._send(self._call(message))

    def _call(self, call: Call) -> Reply:
        try:
            match call.method:
                case "drain":
                    self._drain(call.arguments)
                case "role":
                    self._take_epoch(call.arguments)
                    self._engine.set_role(Role(str(call.arguments["role"])))
                    self._drain_deadline_ns = None
                case "reset_prefix_cache":
                    self._engine.reset_prefix_cache()
                case "state":
                    pass
        except RequestError as error:
            return Reply(call.call_id, error=error.message, error_status=error.status)
        self._leave_snapshot()
        return Reply(call.call_id, result=self.state())

    def _drain(self, arguments: dict[str, Any]) -> None:
        self._take_epoch(arguments)
        self._engine.drain()
        seconds = arguments.get("deadlineSeconds")
        if seconds is not None:
            self._drain_deadline_ns = self._clock_ns() + int(float(seconds) * 1e9)

    def _take_epoch(self, arguments: dict[str, Any]) -> None:
        """Refuse an act of an older plan: a Lease does not fence, the epoch does."""
        epoch = arguments.get("epoch")
        if epoch is None:
            return
        if epoch < self._epoch:
            raise RequestError(
                f"`epoch` {epoch} is older than {self._epoch}, the last one seen",
                status=409,
                param="epoch",
                code="stale_epoch",
            )
        self._epoch = epoch

    def _end_overdue_drain(self) -> None:
        deadline_ns = self._drain_deadline_ns
        if deadline_ns is None:
            return
        if self._engine.phase is not Phase.DRAINING:
            self._drain_deadline_ns = None
        elif self._clock_ns() >= deadline_ns:
            self._drain_deadline_ns = None
            self._engine.fail_all("the worker is draining and its deadline has passed", 503)
            self._engine.end_leases()

    def _leave_snapshot(self) -> None:
        engine = self._engine
        snapshot = {
            "role": engine.role.value,
            "phase": engine.phase.value,
            "inFlight": engine.in_flight,
            "epoch": self._epoch,
            **engine.statistics.snapshot(),
        }
        with self._snapshot_lock:
            self._snapshot = snapshot

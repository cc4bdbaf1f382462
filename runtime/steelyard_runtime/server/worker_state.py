"""What this worker is right now: phase, role, drain, and how many requests are open.

The engine process owns role, epoch and blocks and answers from its reader thread; this module adds
what only the HTTP process knows: that the engine is loading or gone, and requests that have not
reached the engine or not yet left for the client.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from steelyard_runtime import __version__
from steelyard_runtime.core.roles import Phase
from steelyard_runtime.errors import EngineDeadError, RequestError
from steelyard_runtime.ipc.messages import Ready
from steelyard_runtime.server.engine_client import EngineClient
from steelyard_runtime.server.leaving import Leaving
from steelyard_runtime.server.metrics import WorkerMetrics

STATE_TIMEOUT_SECONDS = 5.0
CONTROL_TIMEOUT_SECONDS = 30.0
BLOCK_STATES = ("total", "free", "cached", "referenced", "leased", "quarantined")


class WorkerState:
    """One worker's state, and the gate that requests pass."""

    def __init__(
        self,
        engine: EngineClient,
        metrics: WorkerMetrics,
        start_role: str,
        transfers_kv: bool = True,
    ) -> None:
        self._transfers_kv = transfers_kv
        self.engine = engine
        self.metrics = metrics
        self.open_requests = 0
        self.leaving = Leaving()
        self._draining = False
        self._is_open = False
        self._last: dict[str, Any] = {
            "role": start_role,
            "phase": Phase.READY,
            "inFlight": 0,
            "epoch": 0,
            "blocks": dict.fromkeys(BLOCK_STATES, 0),
            "running": 0,
            "waiting": 0,
            "landing": 0,
        }
        metrics.role = start_role
        metrics.phase = self.phase

    @property
    def role(self) -> str:
        """The role in force."""
        return str(self._last["role"])

    @property
    def phase(self) -> Phase:
        """Where the worker is in its life."""
        engine = self.engine
        if engine.is_dead or engine.failure is not None:
            return Phase.FAILED
        if not self._is_open:
            warm = engine.progress is not None and engine.progress.stage == "warmup"
            return Phase.WARMUP if warm else Phase.LOADING
        if self._draining or self.leaving.began:
            engine_drained = self._last["phase"] == Phase.DRAINED
            return Phase.DRAINED if engine_drained and not self.open_requests else Phase.DRAINING
        return Phase.READY

    def open(self, ready: Ready) -> None:
        """Admit requests: the engine is ready and the tokenizer is loaded."""
        self._is_open = True
        self.metrics.ready = ready
        self.metrics.phase = self.phase

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold the worker open for one request.

        Raises:
            RequestError: 503, the worker takes no requests now.
        """
        phase = self.phase
        if phase is not Phase.READY:
            raise RequestError(
                f"the worker takes no requests in phase '{phase}'",
                status=503,
                code=f"worker_{phase}",
                kind="server_error",
                retry_after_seconds=1,
            )
        self.open_requests += 1
        try:
            yield
        finally:
            self.open_requests -= 1

    async def refresh(self) -> dict[str, Any]:
        """Ask the engine and return the body of `GET /state`; old numbers where it is gone."""
        if self.engine.ready is not None and not self.engine.is_dead:
            # The phase tells a dead engine; a silent one keeps its last numbers.
            with suppress(EngineDeadError, RequestError):
                self._take(await self.engine.call("state", timeout_seconds=STATE_TIMEOUT_SECONDS))
        self.metrics.phase = self.phase
        return self.snapshot()

    def snapshot(self) -> dict[str, Any]:
        """Return the body of `GET /state` from what was last heard."""
        ready, progress = self.engine.ready, self.engine.progress
        body = {key: value for key, value in self._last.items() if key not in _METRIC_KEYS}
        body.update(
            phase=self.phase.value,
            inFlight=max(int(self._last["inFlight"]), self.open_requests),
            fingerprint=ready.fingerprint if ready else "",
            engineId=ready.engine_id if ready else "",
            version=__version__,
            scheme="http",
            kvTransfer=self._transfers_kv,
        )
        if ready is None and progress is not None:
            body["progress"] = {"stage": progress.stage, "percent": progress.percent}
        return body

    async def drain(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Stop admission; what is in flight goes on.

        Raises:
            RequestError: 409 for a lower epoch, 503 while the engine loads.
        """
        self._require_engine()
        result = await self.engine.call("drain", arguments, timeout_seconds=CONTROL_TIMEOUT_SECONDS)
        self._draining = True
        self._take(result)
        return self.snapshot()

    async def change_role(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take a role and admit requests again; the old role resumes.

        Raises:
            RequestError: 409 for a lower epoch or while requests are in flight, 503 while loading.
        """
        self._require_engine()
        if self.leaving.began:
            raise RequestError(
                "the worker is shutting down; its role may not change",
                status=409,
                code="shutting_down",
            )
        if arguments["role"] != self.role and self.open_requests:
            raise RequestError(
                f"`role` may not change with {self.open_requests} requests in flight; "
                "POST /drain first and wait for phase 'drained'",
                status=409,
                param="role",
                code="not_drained",
            )
        result = await self.engine.call("role", arguments, timeout_seconds=CONTROL_TIMEOUT_SECONDS)
        self._draining = False
        self._take(result)
        return self.snapshot()

    async def begin_shutdown(self) -> None:
        """Stop admission for good (SIGTERM)."""
        self.leaving.begin()
        self.metrics.phase = self.phase
        if self.engine.ready is not None and not self.engine.is_dead:
            self._take(await self.engine.call("drain", {}))

    def _require_engine(self) -> None:
        if not self._is_open or self.engine.is_dead:
            raise RequestError(
                f"the worker cannot do this in phase '{self.phase}'",
                status=503,
                code=f"worker_{self.phase}",
                kind="server_error",
            )

    def _take(self, reply: dict[str, Any]) -> None:
        self._last = {**self._last, **reply}
        self.metrics.set_engine_numbers(reply.get("gauges", {}), reply.get("counters", {}))
        self.metrics.role = self.role
        self.metrics.phase = self.phase


_METRIC_KEYS = frozenset({"gauges", "counters"})

"""The workers as the router sees them now: membership merged with what was observed.

Holds state and tells waiters of changes; who probes is decided in `health.py`, who is chosen in
`placement.py`.
"""

import asyncio
from collections.abc import Iterable, Sequence

from steelyard_runtime.router.affinity import PrefixMemory
from steelyard_runtime.router.membership import Member
from steelyard_runtime.router.placement import decode_capable
from steelyard_runtime.router.scoring import Candidate


class Worker:
    """One worker. It outlives its membership until its last stream ends."""

    __slots__ = (
        "consecutive_failures",
        "ejected",
        "ejected_because",
        "fingerprint",
        "in_flight",
        "last_picked",
        "max_model_len",
        "member",
        "phase",
        "probed_alive_seconds",
        "removed",
        "role",
        "suspects",
        "suspects_met",
    )

    def __init__(self, member: Member) -> None:
        self.member = member
        self.role: str = member.role or "both"
        self.phase: str = member.phase or "unknown"
        self.fingerprint: str | None = member.fingerprint
        self.in_flight = 0
        self.consecutive_failures = 0
        self.ejected = False
        self.ejected_because = ""
        self.removed = False
        self.last_picked = 0
        self.max_model_len: int | None = None
        self.suspects = 0  # requests here under which another worker died (`blame.py`)
        self.suspects_met = False  # two at a time, since there was none
        self.probed_alive_seconds = 0.0  # when it last answered a probe while silent on requests

    @property
    def id(self) -> str:
        """The worker's name in the membership."""
        return self.member.id

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return self.member.url

    @property
    def routable(self) -> bool:
        """Whether new requests may go there."""
        return not self.removed and not self.ejected and self.phase == "ready"


class WorkerPool:
    """All workers of the service, and a way to wait for the next change."""

    def __init__(self, memory: PrefixMemory) -> None:
        self._workers: dict[str, Worker] = {}
        self._memory = memory
        self._changed = asyncio.Event()
        self._picks = 0

    @property
    def workers(self) -> Sequence[Worker]:
        """The members, in the order of their names' first appearance."""
        return list(self._workers.values())

    def get(self, worker_id: str) -> Worker | None:
        """Return the member of that name."""
        return self._workers.get(worker_id)

    def apply(self, members: Iterable[Member]) -> list[Worker]:
        """Take a new membership; returns the workers that are new or live at a new address."""
        new: dict[str, Worker] = {}
        added = []
        for member in members:
            worker = self._workers.get(member.id)
            if worker is None or worker.url != member.url:
                self._memory.forget(member.id)
                worker = Worker(member)
                added.append(worker)
            elif worker.member != member:
                worker.member = member
                worker.role = member.role or worker.role
                worker.phase = member.phase or worker.phase
                worker.fingerprint = member.fingerprint or worker.fingerprint
            new[member.id] = worker
        for worker_id, worker in self._workers.items():
            if new.get(worker_id) is not worker:
                worker.removed = True
                if worker_id not in new:
                    self._memory.forget(worker_id)
        self._workers = new
        self.notify()
        return added

    def notify(self) -> None:
        """Wake everyone who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self, timeout_seconds: float) -> None:
        """Return at the next change, or when the time is over."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def eject(self, worker: Worker, reason: str) -> None:
        """Send no new requests there until it is readmitted; its cache may be gone with it."""
        worker.ejected = True
        worker.ejected_because = reason
        self._memory.forget(worker.id)
        self.notify()

    def readmit(self, worker: Worker) -> None:
        """Send requests there again."""
        worker.ejected = False
        worker.ejected_because = ""
        worker.consecutive_failures = 0
        self.notify()

    def picked(self, worker: Worker) -> None:
        """Note that a request goes there."""
        self._picks += 1
        worker.last_picked = self._picks

    def decode_ready(self) -> bool:
        """Whether any worker takes requests that decode."""
        return any(one.routable and decode_capable(one.role) for one in self._workers.values())

    def candidates(
        self, hashes: Sequence[int], tokens_per_chunk: float, excluded: frozenset[str]
    ) -> list[Candidate]:
        """Return the routable workers with what placement needs to know of them."""
        memory = self._memory
        return [
            Candidate(
                worker_id=worker.id,
                role=worker.role,
                fingerprint=worker.fingerprint,
                in_flight=worker.in_flight,
                warm_tokens=round(memory.warm_chunks(worker.id, hashes) * tokens_per_chunk),
                recent_failures=worker.consecutive_failures,
                last_picked=worker.last_picked,
            )
            for worker in self._workers.values()
            if worker.routable and worker.id not in excluded
        ]

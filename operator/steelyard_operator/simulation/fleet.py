"""The events of a service: arrivals, ends of prompts and sequences, transfers, ticks."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from steelyard_operator.planning.balance.signals import Signals, Split
from steelyard_operator.simulation.outcome import Outcome
from steelyard_operator.simulation.policies import Policy, View
from steelyard_operator.simulation.profiles import Profile
from steelyard_operator.simulation.traces import Request
from steelyard_operator.simulation.window import Window
from steelyard_operator.simulation.workers import Job, Role, Worker

TICK_SECONDS = 5.0
PROGRESS_EVERY = 20_000  # requests


class Fleet:
    """One run. `run` returns when every request is answered."""

    def __init__(
        self,
        profile: Profile,
        requests: list[Request],
        policy: Policy,
        *,
        start: Split,
        max_workers: int,
        colocated: int = 0,
        give_up: float = 0.0,
    ) -> None:
        """Set up a fleet that is ready at time 0.

        Args:
            profile: of every worker.
            requests: in order of arrival.
            policy: asked at each tick.
            start: workers at time 0.
            max_workers: never exceeded, ending workers counted.
            colocated: workers that do both, instead of `start`.
            give_up: stop when the attainment cannot reach this share any more.
        """
        self.profile = profile
        self.policy = policy
        self.max_workers = max_workers
        self.outcome = Outcome(policy.name, profile.objectives, profile.dollars_per_hour)
        self._requests = requests
        self._allowed_bad = len(requests) * (1 - give_up) if give_up else float("inf")
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        self._held: list[Job] = []  # prompts without a worker
        self._arrived: list[Job] = []  # transferred, without a decode worker
        self._window = Window()
        self._seen = Signals(TICK_SECONDS, 0, 0, 0.0, 0, 0, 0, 0, 0, start.prefill, start.decode)
        self._workers: list[Worker] = []
        for role, count in (
            (Role.PREFILL, 0 if colocated else start.prefill),
            (Role.DECODE, 0 if colocated else start.decode),
            (Role.BOTH, colocated),
        ):
            for _ in range(count):
                self._workers.append(Worker(profile, role, created=0.0, ready_at=0.0))

    def run(self, progress: Callable[[float], None] | None = None) -> Outcome:
        """Play all requests.

        Args:
            progress: told the share of the requests that has arrived.
        """
        requests, events = self._requests, self._events
        self._at(TICK_SECONDS, self._tick)
        index, total, out = 0, len(requests), self.outcome
        while out.requests < total:
            if index < total and (not events or requests[index].at <= events[0][0]):
                self._now = requests[index].at
                self._arrive(requests[index])
                index += 1
                if progress is not None and index % PROGRESS_EVERY == 0:
                    progress(index / total)
            else:
                time, _, act = heapq.heappop(events)
                self._now = time
                act()
            if out.requests - out.good > self._allowed_bad:
                break
        out.seconds = self._now
        for worker in self._workers:
            self._end(worker)
        return out

    # --- requests ---------------------------------------------------------------------------------

    def _arrive(self, request: Request) -> None:
        self._window.arrived(request)
        self._prefill(Job(request, tokens_left=request.output_tokens - 1))

    def _prefill(self, job: Job) -> None:
        workers = [w for w in self._serving() if w.role is not Role.DECODE]
        if not workers:
            self._held.append(job)
            return
        # Where a worker does both, sequences slow its prompts as well.
        worker = min(workers, key=lambda w: w.queued_tokens + 64 * len(w.sequences))
        worker.advance(self._now)
        worker.add_prompt(job)
        self._schedule(worker)

    def _decode(self, job: Job) -> None:
        workers = [w for w in self._serving() if w.role is Role.DECODE]
        if not workers:
            self._arrived.append(job)
            return
        worker = min(workers, key=lambda w: len(w.sequences) + len(w.waiting))
        worker.advance(self._now)
        worker.add_sequence(job)
        self._schedule(worker)

    def _worker_event(self, worker: Worker, version: int) -> None:
        if version != worker.version:
            return
        worker.advance(self._now)
        prompts, sequences = worker.take_ended()
        for job in prompts:
            if worker.role is Role.BOTH:
                worker.add_sequence(job)
                continue
            seconds = (
                self.profile.transfer_seconds
                + job.request.input_tokens * self.profile.transfer_seconds_per_token
            )
            self._at(self._now + seconds, partial(self._decode, job))
        for job in sequences:
            self.outcome.add(job, self._now)
            self._window.answered(job.request)
        self._schedule(worker)
        self._settle(worker)

    def _schedule(self, worker: Worker) -> None:
        worker.version += 1
        time = worker.next_event()
        if time is not None:
            version = worker.version
            self._at(time, lambda: self._worker_event(worker, version))

    # --- workers ----------------------------------------------------------------------------------

    def _serving(self) -> list[Worker]:
        now = self._now
        return [w for w in self._workers if w.ready_at <= now and not w.draining]

    def _settle(self, worker: Worker) -> None:
        """Take the next step of a worker that drains and has nothing left."""
        if not worker.draining or not worker.idle:
            return
        if worker.leaving:
            if worker in self._workers:
                self._workers.remove(worker)
                self._end(worker)
            return
        assert worker.next_role is not None
        worker.role, worker.next_role = worker.next_role, None
        worker.ready_at = self._now + self.profile.flip_seconds
        self._at(worker.ready_at, self._welcome)

    def _drain_deadline(self, worker: Worker) -> None:
        if worker.draining and not worker.idle:
            worker.advance(self._now)
            jobs = worker.evict()
            self._schedule(worker)
            for job in jobs:
                self._prefill(job)
            self._settle(worker)

    def _welcome(self) -> None:
        """A worker is ready: what waited for one goes on."""
        held, self._held = self._held, []
        arrived, self._arrived = self._arrived, []
        for job in held:
            self._prefill(job)
        for job in arrived:
            self._decode(job)

    def _end(self, worker: Worker) -> None:
        self.outcome.worker_seconds += self._now - worker.created

    # --- the policy -------------------------------------------------------------------------------

    def split(self) -> Split:
        """Return the workers by the role that they have or will have."""
        roles = [w.next_role or w.role for w in self._workers if not w.leaving]
        return Split(roles.count(Role.PREFILL), roles.count(Role.DECODE))

    def _tick(self) -> None:
        split = self.split()
        for worker in self._workers:
            worker.advance(self._now)
        serving = self._serving()
        ready = Split(
            sum(w.role is Role.PREFILL for w in serving),
            sum(w.role is Role.DECODE for w in serving),
        )
        view = View(replace(self._seen, prefill=split.prefill, decode=split.decode), ready)
        backlog = sum(w.queued_tokens for w in self._workers)
        backlog += sum(job.request.input_tokens for job in self._held)
        decoding = sum(len(w.sequences) + len(w.waiting) for w in self._workers)
        # What is read at a tick was measured until the last one: scraping takes its time.
        self._seen = self._window.signals(TICK_SECONDS, backlog, decoding + len(self._arrived))
        self._window = Window()
        wanted = self.policy.decide(view)
        if wanted is not None and wanted != split:
            self._apply(split, wanted)
        self._note_split()
        self._at(self._now + TICK_SECONDS, self._tick)

    def _note_split(self) -> None:
        split = self.split()
        self.outcome.splits.append((self._now, split.prefill, split.decode))

    def _apply(self, now: Split, wanted: Split) -> None:
        more = {
            Role.PREFILL: wanted.prefill - now.prefill,
            Role.DECODE: wanted.decode - now.decode,
        }
        for role, other in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
            while self.policy.flips and more[role] > 0 and more[other] < 0:
                if not self._flip(other, role):
                    break
                more[role] -= 1
                more[other] += 1
        for role, count in more.items():
            for _ in range(-count):
                self._remove(role)
            for _ in range(count):
                if len(self._workers) < self.max_workers:
                    self._add(role)

    def _flip(self, role: Role, to: Role) -> bool:
        worker = self._least_busy(role)
        if worker is None or worker.ready_at > self._now:
            return False
        worker.next_role = to
        self._count(worker)
        self.outcome.flips += 1
        return True

    def _remove(self, role: Role) -> None:
        worker = self._least_busy(role)
        if worker is not None:
            worker.leaving = True
            self._count(worker)

    def _count(self, worker: Worker) -> None:
        self.outcome.moves += 1
        worker.drain_until = self._now + self.profile.drain_seconds
        self._at(worker.drain_until, lambda: self._drain_deadline(worker))
        self._settle(worker)

    def _add(self, role: Role) -> None:
        ready = self._now + self.profile.cold_start_seconds
        self._workers.append(
            Worker(self.profile, role, created=self._now, ready_at=ready, now=self._now)
        )
        self.outcome.moves += 1
        self._at(ready, self._welcome)

    def _least_busy(self, role: Role) -> Worker | None:
        """Return who is given up first: one that still starts, or has the least work."""
        workers = [w for w in self._workers if w.role is role and not w.draining]
        return min(
            workers,
            key=lambda w: (
                -w.ready_at if w.ready_at > self._now else 0.0,
                w.queued_tokens,
                len(w.sequences),
            ),
            default=None,
        )

    def _at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), act))

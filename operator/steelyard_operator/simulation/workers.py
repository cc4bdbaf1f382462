"""One worker in simulated time, exact between events: rates are constant until something changes.

Decode is processor sharing: every sequence gains a token a step, and a step's time follows from how
many there are and how long. So a worker has one clock of tokens, and a sequence ends when the clock
has moved by its output. Prefill is a queue with one server, whose steps hold several short prompts
or a part of a long one. Where a worker does both, each step carries a chunk of what is being
prefilled, which slows its decode, as chunked prefill does.
"""

import heapq
import itertools
from dataclasses import dataclass, field
from enum import Enum, auto

from steelyard_operator.simulation.profiles import Profile
from steelyard_operator.simulation.traces import Request

CHUNK_TOKENS = 512  # of a step that also decodes


class Role(Enum):
    """What a worker serves."""

    PREFILL = auto()
    DECODE = auto()
    BOTH = auto()


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way."""

    request: Request
    first_token_at: float = 0.0
    tokens_left: float = 0.0
    restarted: bool = False


@dataclass(slots=True, eq=False)
class Worker:
    """A worker; `advance` brings it to a time, `next_event` says when something ends."""

    profile: Profile
    role: Role
    created: float
    ready_at: float
    next_role: Role | None = None  # it drains, and will be this; with `leaving` it ends instead
    leaving: bool = False
    drain_until: float = 0.0
    now: float = 0.0
    queue: list[Job] = field(default_factory=list)  # prompts, the first one being computed
    head: int = 0
    queued_tokens: int = 0
    batch: int = 0  # the prompts of the step that is under way
    batch_seconds: float = 0.0
    done_seconds: float = 0.0  # of it
    clock: float = 0.0  # decode's tokens
    sequences: list[tuple[float, int, Job]] = field(default_factory=list)  # by end of clock
    starts: float = 0.0  # sum over sequences of (clock at the start - tokens then)
    waiting: list[Job] = field(default_factory=list)  # for room in the cache
    held_tokens: float = 0.0  # in the cache at most, over all sequences' lives
    version: int = 0
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def draining(self) -> bool:
        """Whether it takes nothing new."""
        return self.leaving or self.next_role is not None

    @property
    def idle(self) -> bool:
        """Whether it has no work."""
        return self.head >= len(self.queue) and not self.sequences and not self.waiting

    def step(self) -> float:
        """Return the seconds of a decode step now."""
        count = len(self.sequences)
        tokens = count * self.clock - self.starts
        return self.profile.capacity.step(count, tokens)

    def rates(self) -> tuple[float, float]:
        """Return decode tokens a second, and the share of its speed that prefill has."""
        queued, decoding = self.head < len(self.queue), bool(self.sequences)
        if queued and decoding:
            chunk = CHUNK_TOKENS / self.profile.capacity.prefill_tokens_per_second
            whole = self.step() + chunk
            return 1 / whole, chunk / whole
        return (1 / self.step() if decoding else 0.0), (1.0 if queued else 0.0)

    def _begin_step(self) -> None:
        """Take what the next prefill step holds: a prompt, and those behind it that fit as well."""
        capacity, waiting = self.profile.capacity, len(self.queue) - self.head
        if self.batch or not waiting:
            return
        tokens, self.batch = _tokens(self.queue[self.head]), 1
        while self.batch < waiting:
            more = _tokens(self.queue[self.head + self.batch])
            if tokens + more > capacity.prefill_step_tokens:
                break
            tokens, self.batch = tokens + more, self.batch + 1
        self.done_seconds, self.batch_seconds = 0.0, capacity.prefill_alone(tokens)

    def advance(self, now: float) -> None:
        """Bring clocks to `now`; nothing may have ended before."""
        seconds = now - self.now
        if seconds > 0:
            decode, prefill = self.rates()
            self.clock += decode * seconds
            self.done_seconds += prefill * seconds
        self.now = now

    def next_event(self) -> float | None:
        """Return when the next prompt or sequence ends, if nothing else happens."""
        decode, prefill = self.rates()
        times = []
        if prefill > 0:
            left = self.batch_seconds - self.done_seconds
            times.append(self.now + max(left, 0.0) / prefill)
        if decode > 0:
            times.append(self.now + max(self.sequences[0][0] - self.clock, 0.0) / decode)
        return min(times) if times else None

    def add_prompt(self, job: Job) -> None:
        """Queue a prompt."""
        self.queue.append(job)
        self.queued_tokens += job.request.input_tokens
        self._begin_step()

    def add_sequence(self, job: Job) -> None:
        """Start decoding, or wait for room."""
        self.waiting.append(job)
        self.admit()

    def admit(self) -> None:
        """Start the sequences that fit."""
        capacity = self.profile.capacity
        while self.waiting and len(self.sequences) < capacity.max_sequences:
            job = self.waiting[0]
            whole = job.request.input_tokens + job.request.output_tokens
            if self.sequences and self.held_tokens + whole > capacity.kv_tokens:
                return
            self.waiting.pop(0)
            self.held_tokens += whole
            before = whole - job.tokens_left
            self.starts += self.clock - before
            heapq.heappush(self.sequences, (self.clock + job.tokens_left, next(self._numbers), job))
            if not job.first_token_at:
                job.first_token_at = self.now + self.step()

    def take_ended(self) -> tuple[list[Job], list[Job]]:
        """Return the prompts and the sequences that have ended by now."""
        prompts: list[Job] = []
        sequences = []
        if self.batch and self.done_seconds >= self.batch_seconds - 1e-9:
            prompts = self.queue[self.head : self.head + self.batch]
            self.head += self.batch
            self.queued_tokens -= sum(job.request.input_tokens for job in prompts)
            self.batch = 0
            self._begin_step()
        if self.head > 256:
            del self.queue[: self.head]
            self.head = 0
        while self.sequences and self.sequences[0][0] <= self.clock + 1e-6:
            end, _, job = heapq.heappop(self.sequences)
            self._forget(job, end)
            job.tokens_left = 0.0
            sequences.append(job)
        if sequences:
            self.admit()
        return prompts, sequences

    def evict(self) -> list[Job]:
        """Give all work back: what was decoded so far is prefilled again elsewhere."""
        jobs = self.queue[self.head :]
        for end, _, job in self.sequences:
            job.tokens_left = max(1.0, end - self.clock)
            job.restarted = True
            jobs.append(job)
        jobs += self.waiting
        self.queue, self.head, self.queued_tokens, self.batch = [], 0, 0, 0
        self.sequences, self.waiting, self.starts, self.held_tokens = [], [], 0.0, 0.0
        return jobs

    def _forget(self, job: Job, end: float) -> None:
        whole = job.request.input_tokens + job.request.output_tokens
        # It began at `end - tokens left then` with the rest of its tokens there already.
        self.starts -= end - whole
        self.held_tokens -= whole


def _tokens(job: Job) -> float:
    """Return what a prompt has to be computed of: after a restart, what was decoded as well."""
    again = job.request.output_tokens - job.tokens_left if job.restarted else 0.0
    return job.request.input_tokens + again

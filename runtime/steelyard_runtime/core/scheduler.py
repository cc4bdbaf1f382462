"""What runs in the next step: continuous batching with chunked prefill over paged KV.

Decides the life of a sequence from `add` to its end; called by the step thread alone, as
`schedule`, forward pass, `commit`. Between the two, any other method may be called. `ahead`
plans the step after one whose tokens are not known yet.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Tokens

import msgspec

from steelyard_runtime.core.admission import Admission
from steelyard_runtime.core.ahead import next_decode_step
from steelyard_runtime.core.batch import StepPlan
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.landing import Landings
from steelyard_runtime.core.limits import Aborted, Counters, SchedulerConfig, check_length
from steelyard_runtime.core.prefix_cache import PrefixCache
from steelyard_runtime.core.results import StepResults
from steelyard_runtime.core.roles import Role
from steelyard_runtime.core.running import RunningBatch
from steelyard_runtime.core.sequence import Sequence, SequencePhase
from steelyard_runtime.core.waiting import WaitingQueue
from steelyard_runtime.errors import ENDS_PROCESS, RequestError


class Scheduler:
    """Sequences, their blocks, and the plan of each step."""

    def __init__(self, config: SchedulerConfig, blocks: BlockManager) -> None:
        self.config = config
        self.blocks = blocks
        self.counters = Counters()
        self.role = config.role
        self.draining = False
        self._prefixes = PrefixCache(
            blocks,
            block_size=config.block_size,
            fingerprint=config.fingerprint,
            enabled=config.prefix_caching,
        )
        self._landings = Landings(config, blocks, self._prefixes)
        self._admission = Admission(config, blocks, self._prefixes, self._landings, self.counters)
        self._results = StepResults(config.eos_token_ids, self._prefixes, self.counters)
        self._waiting = WaitingQueue()
        self._running = RunningBatch(config, blocks, self._waiting, self.counters)
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = 0
        self._planned = self._committed = 0  # steps
        # Blocks that nobody owns but that planned steps still write to, and the last such step.
        self._held: list[tuple[int, list[int]]] = []
        # A sequence may use the whole pool and no more.
        self.max_sequence_tokens = min(config.max_model_len, blocks.num_blocks * config.block_size)

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for blocks or for a place in the batch."""
        return len(self._waiting)

    @property
    def num_landing(self) -> int:
        """Sequences whose prompt's KV is being pulled."""
        return len(self._landings)

    @property
    def in_flight(self) -> int:
        """What a drain waits for: sequences and leases."""
        return len(self._sequences) + self.blocks.num_leases

    def get(self, request_id: str) -> Sequence | None:
        """Return a sequence that has not ended."""
        return self._sequences.get(request_id)

    def add(self, sequence: Sequence, *, remote: bool = False) -> None:
        """Queue a sequence; with `remote`, its prompt's KV is to be pulled.

        Lowers `max_tokens` to what fits into the model's length and into the pool.

        Raises:
            RequestError: draining (503), queue full (429), prompt too long or id in use (400).
        """
        config = self.config
        if self.draining:
            raise RequestError(
                "This worker is draining and takes no new requests; try again.",
                status=503,
                code="draining",
                kind="server_error",
                retry_after_seconds=config.retry_after_seconds,
            )
        check_length(sequence, config, self.max_sequence_tokens)
        if len(self._waiting) >= config.max_waiting_requests:
            raise RequestError(
                f"The queue is full: {len(self._waiting)} requests wait, at most "
                f"{config.max_waiting_requests} may.",
                status=429,
                code="queue_full",
                kind="rate_limit_error",
                retry_after_seconds=config.retry_after_seconds,
            )
        if sequence.request_id in self._sequences or self.blocks.holds_for(sequence.request_id):
            raise RequestError(f"The request id {sequence.request_id!r} is in use.")
        room = self.max_sequence_tokens - sequence.num_prompt_tokens
        if sequence.params.max_tokens > room:
            sequence.params = msgspec.structs.replace(sequence.params, max_tokens=room)
        sequence.wants_remote = remote
        sequence.arrival_index = self._arrivals
        self._arrivals += 1
        self._sequences[sequence.request_id] = sequence
        self._waiting.insert(sequence)

    def abort(self, request_id: str, *, distrusts_kv: bool = False) -> Aborted | None:
        """Drop a sequence and free its blocks; None where there is none.

        Blocks of a running step are freed by its `commit`, landing ones by `settle`. With
        `distrusts_kv` no later sequence finds them in the prefix cache.
        """
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return None
        landing = sequence.phase is SequencePhase.LANDING
        release = sequence.wants_remote
        if distrusts_kv:
            self.blocks.unpublish(sequence.block_ids)
        if landing:
            if self._landings.give_up(request_id) is None:
                self._free_blocks(sequence)  # it failed between its landing and the queue
        elif sequence.phase is SequencePhase.WAITING:
            self._waiting.remove(sequence)
            self._free_blocks(sequence)
        else:
            self._running.remove(sequence)
            self._free_blocks(sequence)
        sequence.finish_reason = "abort"
        self._forget(sequence)
        return Aborted(sequence, cancel_pull=landing, release_remote=release)

    def schedule(self) -> StepPlan:
        """Plan the next step: running sequences first, then admission, oldest first.

        An empty plan means that nothing can run until an event or a new request comes. A plan
        that schedules tokens must be committed before the next one is made.
        """
        if self._planned > self._committed:
            raise RuntimeError("schedule() was called before commit() of the last plan")
        plan = StepPlan()
        budget = self._running.schedule(plan, self.role)
        self._drop_failed(plan.failed)
        num_failed = len(plan.failed)
        if self._waiting:
            self._admission.run(
                plan,
                self._waiting,
                self._running.add,
                num_running=len(self._running),
                budget=budget,
                may_allocate=not plan.preempted,
            )
            self._drop_failed(plan.failed[num_failed:])
        self._planned += bool(plan.scheduled)
        return plan

    def ahead(self, plan: StepPlan) -> StepPlan | None:
        """Plan the step after a decode step that has not been committed yet.

        Each sequence is taken to go on, unless its length ends it; commit what comes of one that
        has ended otherwise all the same, it is dropped.

        Returns None where the next step may be another one: requests wait that could be admitted,
        something is still prefilled, or blocks are short. Then commit first and call `schedule`.
        """
        if self._planned != self._committed + 1:
            raise RuntimeError("ahead() takes one step that was not committed")
        if self._waiting and len(self._running) < self.config.max_num_seqs:
            return None
        following = next_decode_step(
            plan,
            num_running=len(self._running),
            blocks=self.blocks,
            block_size=self.config.block_size,
        )
        self._planned += following is not None
        return following

    def commit(self, plan: StepPlan, sampled: Mapping[str, Tokens[int]]) -> list[Sequence]:
        """Take in a step's results; return the sequences that ended, their blocks freed or leased.

        `sampled` holds the accepted tokens, at least one, of each sequence that reached its end
        in this step and was not aborted since. Tokens after a sequence's end are dropped. What a
        sequence raises ends it, with `finish_reason` "error" and its `error`.
        """
        self._committed += bool(plan.scheduled)
        ended: list[Sequence] = []
        failed: list[Sequence] = []
        for item in plan.scheduled:
            sequence = item.sequence
            if sequence.phase is not SequencePhase.RUNNING:
                continue  # aborted during the step, or ended by the one before
            tokens = sampled.get(sequence.request_id, ())
            if not _attempt(sequence, self._results.take, item, tokens):
                failed.append(sequence)
            elif sequence.finish_reason:
                ended.append(sequence)
        failed += [each for each in ended if not _attempt(each, self._finish, each)]
        self._drop_failed(failed)
        ended += [each for each in failed if each not in ended]
        while self._held and self._held[0][0] <= self._committed:
            self.blocks.free(self._held.pop(0)[1])
        return ended

    def landed(self, request_id: str) -> None:
        """The prompt's KV is here: the sequence runs from its last prompt position on."""
        sequence = self._landings.finish(request_id)
        if sequence is not None:
            self._waiting.insert(sequence)

    def landing_failed(self, request_id: str) -> bool:
        """The pull failed: the prompt is recomputed into fresh blocks.

        False where nothing landed: the request is gone, or its pull had no blocks.
        """
        sequence = self._landings.give_up(request_id)
        if sequence is None:
            return False
        self._waiting.insert(sequence)
        return True

    def settle(self, request_id: str) -> None:
        """Nothing can land in this request's quarantined blocks any more."""
        self.blocks.settle(request_id)

    def end_lease(self, request_id: str) -> bool:
        """Free the exported blocks; False where there is no such lease."""
        return self.blocks.end_lease(request_id)

    def reset_prefix_cache(self) -> int:
        """Forget cached blocks that nobody holds; return how many."""
        return self.blocks.forget_cached()

    def set_role(self, role: Role) -> None:
        """Change the role; takes effect with the next step."""
        self.role = role

    def drain(self) -> None:
        """Take no new sequences; those in flight go on."""
        self.draining = True

    def resume(self) -> None:
        """Take new sequences again."""
        self.draining = False

    def _drop_failed(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            aborted = self.abort(sequence.request_id)
            if aborted is not None and aborted.cancel_pull:
                self.settle(sequence.request_id)  # its pull was never begun
            sequence.finish_reason = "error"

    def _finish(self, sequence: Sequence) -> None:
        if sequence.export_kv:  # first: it may raise
            num_blocks = self.config.blocks_for(sequence.num_prompt_tokens)
            self.blocks.lease(sequence.request_id, sequence.block_ids[:num_blocks])
        self._running.remove(sequence)
        self._free_blocks(sequence)
        self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        sequence.phase = SequencePhase.FINISHED
        del self._sequences[sequence.request_id]
        self._admission.forget(sequence)

    def _free_blocks(self, sequence: Sequence) -> None:
        """Free a sequence's blocks, after the steps that may write to them."""
        if self._planned > self._committed and sequence.block_ids:
            self._held.append((self._planned, sequence.block_ids))
        else:
            self.blocks.free(sequence.block_ids)
        sequence.block_ids = []


def _attempt(sequence: Sequence, work: Callable[..., None], *arguments: object) -> bool:
    """Return whether the work went well; where not, `sequence.error` says why."""
    try:
        work(*arguments)
    except ENDS_PROCESS:
        raise
    except BaseException as error:
        sequence.error = error
    return sequence.error is None

"""The sequences in the batch: each one's share of a step, growth, and who gives way.

The role changes one thing: a decode worker gives local prefill at most half of a step's tokens
while sequences decode, so that a recomputed prompt slows their streams less.
"""

from bisect import insort
from collections.abc import Iterator

from steelyard_runtime.core.batch import Scheduled, StepPlan
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.limits import Counters, SchedulerConfig
from steelyard_runtime.core.roles import Role
from steelyard_runtime.core.sequence import Sequence, SequencePhase
from steelyard_runtime.core.waiting import WaitingQueue, by_arrival
from steelyard_runtime.errors import ENDS_PROCESS


class RunningBatch:
    """Running sequences, oldest first."""

    def __init__(
        self,
        config: SchedulerConfig,
        blocks: BlockManager,
        waiting: WaitingQueue,
        counters: Counters,
    ) -> None:
        self._config = config
        self._blocks = blocks
        self._waiting = waiting
        self._counters = counters
        self._running: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(tuple(self._running))

    def add(self, sequence: Sequence) -> None:
        """Put a sequence that has its blocks into the batch."""
        insort(self._running, sequence, key=by_arrival)
        sequence.phase = SequencePhase.RUNNING

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out; its blocks are the caller's to free."""
        self._running.remove(sequence)

    def schedule(self, plan: StepPlan, role: Role) -> int:
        """Add the batch's share of the step to the plan; return the tokens left for admission.

        One token is set aside for each decoding sequence, so one pass in order of age serves
        them before prefill, and a preempted sequence is never in the plan already. A sequence that
        raises goes to `plan.failed`.
        """
        budget = self._config.max_num_batched_tokens
        running = self._running
        num_decoding = sum(1 for each in running if each.num_pending == 1 and not each.is_held)
        decode_budget = min(num_decoding, budget)
        prefill_budget = budget - decode_budget
        if num_decoding and role is Role.DECODE:
            prefill_budget = min(prefill_budget, max(1, budget // 2))
        index = 0
        while index < len(running):
            sequence = running[index]
            index += 1
            if sequence.is_held:
                continue
            pending = sequence.num_pending
            available = decode_budget if pending == 1 else prefill_budget
            if not available:
                continue
            try:
                if not self._grow(sequence, plan):
                    break  # it was the newest, so nothing follows
                item = Scheduled.chunk(sequence, available)
            except ENDS_PROCESS:
                raise
            except BaseException as error:
                sequence.error = error
                plan.failed.append(sequence)
                continue
            if pending == 1:
                decode_budget -= 1
            else:
                prefill_budget -= item.count
            plan.scheduled.append(item)
        return prefill_budget

    def _grow(self, sequence: Sequence, plan: StepPlan) -> bool:
        """Give the sequence blocks for all its tokens, at the cost of newer ones.

        Returns False if the sequence itself had to go.
        """
        missing = self._config.blocks_for(sequence.num_tokens) - len(sequence.block_ids)
        if missing <= 0:
            return True
        while self._blocks.num_available < missing:
            # The newest of all that hold blocks; never one older than `sequence`, which runs.
            holders = self._waiting.holders.values()
            victim = max((self._running[-1], *holders), key=by_arrival)
            self._preempt(victim)
            plan.preempted.append(victim)
            if victim is sequence:
                return False
        sequence.block_ids += self._blocks.allocate(missing)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Free the sequence's blocks; it waits, to be recomputed."""
        self._blocks.free(sequence.block_ids)
        sequence.block_ids = []
        sequence.num_computed = sequence.num_published = 0
        sequence.num_preemptions += 1
        self._counters.preemptions += 1
        if sequence.phase is SequencePhase.RUNNING:
            self._running.remove(sequence)
            self._waiting.insert(sequence)
        else:
            self._waiting.drop_blocks(sequence)

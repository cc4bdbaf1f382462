"""Which waiting sequences get blocks and a place in the batch, oldest first.

A sequence gets blocks for all its tokens at once, so that only decoding ever needs more.
Sequences that only wait for a transfer or for a sibling's prefill do not hold up younger ones.
"""

from collections.abc import Callable

from steelyard_runtime.core.batch import Pull, Scheduled, StepPlan
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.landing import Landings
from steelyard_runtime.core.limits import Counters, SchedulerConfig
from steelyard_runtime.core.prefix_cache import PrefixCache
from steelyard_runtime.core.sequence import Sequence, SequencePhase
from steelyard_runtime.core.waiting import WaitingQueue
from steelyard_runtime.errors import ENDS_PROCESS


class Admission:
    """Moves sequences from the waiting queue into the batch or into a pull."""

    def __init__(
        self,
        config: SchedulerConfig,
        blocks: BlockManager,
        prefixes: PrefixCache,
        landings: Landings,
        counters: Counters,
    ) -> None:
        self._config = config
        self._blocks = blocks
        self._prefixes = prefixes
        self._landings = landings
        self._counters = counters
        self._leaders: dict[str, Sequence] = {}  # group -> the sibling that prefills the prompt

    def run(
        self,
        plan: StepPlan,
        waiting: WaitingQueue,
        start: Callable[[Sequence], None],
        *,
        num_running: int,
        budget: int,
        may_allocate: bool,
    ) -> None:
        """Admit while tokens, places and blocks last; `start` puts a sequence into the batch.

        Without `may_allocate` (this step preempted somebody) only sequences that hold their
        blocks are admitted, so no plan both preempts and runs a sequence. It is also over with
        allocation once a sequence lacks blocks: younger ones must not take them.

        A sequence that raises goes to `plan.failed`; the others are admitted without it.
        """
        # One block is kept back for each running sequence, or the new one is preempted soon.
        reserve = num_running
        slots = self._config.max_num_seqs - num_running
        head_waits = False
        for sequence in (each for each in waiting if not each.is_held):
            can_run = slots > 0 and budget > 0
            some_may_run = can_run and (may_allocate or waiting.holders)
            some_may_pull = may_allocate and waiting.num_remote
            if not some_may_run and not some_may_pull:
                return
            try:
                if not sequence.block_ids:
                    if not may_allocate or self._waits_for_sibling(sequence):
                        continue
                    if not can_run and not sequence.wants_remote:
                        # Pulls may pass a sequence that lacks a place, but not take its blocks.
                        if not head_waits:
                            reserve += self._config.blocks_for(sequence.num_tokens)
                        head_waits = True
                        continue
                    if not self._allocate(sequence, reserve):
                        may_allocate = False
                        continue
                    if sequence.wants_remote:
                        plan.pulls.append(self._pull(sequence, waiting))
                    if sequence.phase is SequencePhase.LANDING:
                        continue
                if can_run:
                    start(sequence)
                    waiting.remove(sequence)
                    item = Scheduled.chunk(sequence, budget)
                    plan.scheduled.append(item)
                    budget -= item.count
                    slots -= 1
                    reserve += 1
            except ENDS_PROCESS:
                raise
            except BaseException as error:
                sequence.error = error
                plan.failed.append(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Drop what is remembered of a sequence that ended."""
        if self._leaders.get(sequence.group_id) is sequence:
            del self._leaders[sequence.group_id]

    def _allocate(self, sequence: Sequence, reserve: int) -> bool:
        """Give the sequence shared blocks for its cached head and own blocks for the rest."""
        blocks = self._blocks
        total = self._config.blocks_for(sequence.num_tokens)
        found = self._prefixes.find(sequence)
        blocks.share(found)
        if total - len(found) + reserve > blocks.num_available:
            blocks.free(found)
            return False
        sequence.block_ids = found  # From here on they are freed with the sequence.
        sequence.block_ids = found + blocks.allocate(total - len(found))
        sequence.num_published = len(found)
        sequence.num_computed = len(found) * self._config.block_size
        if not sequence.num_preemptions:
            sequence.num_cached_tokens = min(sequence.num_computed, sequence.num_prompt_tokens)
        if not sequence.is_counted and self._prefixes.reads(sequence):
            sequence.is_counted = True
            self._counters.prefix_queries_tokens += sequence.num_tokens
            self._counters.prefix_hits_tokens += sequence.num_computed
        if sequence.group_id:
            self._leaders[sequence.group_id] = sequence
        return True

    def _pull(self, sequence: Sequence, waiting: WaitingQueue) -> Pull:
        """Start the pull, or only tell the prefill worker that its blocks are not needed.

        That is so where the local cache has every full block, and where prompt log
        probabilities ask for a prefill of our own.
        """
        size = self._config.block_size
        first_block = sequence.num_computed // size
        found_all = first_block > 0 and first_block >= (sequence.num_prompt_tokens - 1) // size
        if found_all or sequence.wants_prompt_logits:
            waiting.hold(sequence)
            return Pull(sequence, (), first_block)
        waiting.remove(sequence)
        return self._landings.start(sequence, first_block)

    def _waits_for_sibling(self, sequence: Sequence) -> bool:
        """Whether a sibling is computing the prompt that this sequence will find in the cache."""
        leader = self._leaders.get(sequence.group_id)
        if leader is None or leader is sequence or not self._prefixes.reads(sequence):
            return False
        length = sequence.num_prompt_tokens
        if leader.num_published >= (length - 1) // self._config.block_size:
            return False  # it has nothing more to publish that this sequence could use
        return (
            length == leader.num_prompt_tokens
            and sequence.cache_salt == leader.cache_salt
            and sequence.tokens[:length] == leader.tokens[:length]
        )

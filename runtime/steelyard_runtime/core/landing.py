"""Sequences whose prompt's KV is on its way, and what becomes of their blocks.

A transfer that failed or was given up may still write, so its blocks are quarantined until the
transport says that nothing can land any more.
"""

from dataclasses import dataclass

from steelyard_runtime.core.batch import Pull
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.limits import SchedulerConfig
from steelyard_runtime.core.prefix_cache import PrefixCache
from steelyard_runtime.core.sequence import Sequence, SequencePhase


@dataclass(frozen=True, slots=True)
class _Landing:
    sequence: Sequence
    first_block: int  # blocks before it were found locally and are shared
    end_block: int  # blocks from it on will hold resumed output, computed here


class Landings:
    """The pulls under way."""

    def __init__(
        self, config: SchedulerConfig, blocks: BlockManager, prefixes: PrefixCache
    ) -> None:
        self._config = config
        self._blocks = blocks
        self._prefixes = prefixes
        self._landings: dict[str, _Landing] = {}

    def __len__(self) -> int:
        return len(self._landings)

    def start(self, sequence: Sequence, first_block: int) -> Pull:
        """Begin a pull into the sequence's blocks from `first_block` to the prompt's end."""
        sequence.phase = SequencePhase.LANDING
        sequence.wants_remote = False
        end_block = self._config.blocks_for(sequence.num_prompt_tokens)
        self._landings[sequence.request_id] = _Landing(sequence, first_block, end_block)
        return Pull(sequence, tuple(sequence.block_ids[first_block:end_block]), first_block)

    def finish(self, request_id: str) -> Sequence | None:
        """Count the prompt's KV as computed, but for the last position, whose logits are wanted.

        Returns None for a pull that was given up; its blocks are free then.
        """
        landing = self._landings.pop(request_id, None)
        if landing is None:
            self._blocks.settle(request_id)
            return None
        sequence = landing.sequence
        sequence.num_remote_tokens = (
            sequence.num_prompt_tokens - landing.first_block * self._config.block_size
        )
        sequence.num_computed = sequence.num_prompt_tokens - 1
        self._prefixes.publish(sequence)
        return sequence

    def give_up(self, request_id: str) -> Sequence | None:
        """Quarantine the landing blocks and free the others; None where no pull is under way."""
        landing = self._landings.pop(request_id, None)
        if landing is None:
            return None
        sequence = landing.sequence
        block_ids = sequence.block_ids
        self._blocks.quarantine(request_id, block_ids[landing.first_block : landing.end_block])
        self._blocks.free(block_ids[: landing.first_block] + block_ids[landing.end_block :])
        sequence.block_ids = []
        sequence.num_computed = sequence.num_published = 0
        return sequence

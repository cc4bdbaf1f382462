"""The decode step after one whose tokens are not known yet."""

from steelyard_runtime.core.batch import Scheduled, StepPlan
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.sequence import SequencePhase


def next_decode_step(
    plan: StepPlan, *, num_running: int, blocks: BlockManager, block_size: int
) -> StepPlan | None:
    """Return the step in which every sequence of a decode step goes on, with blocks for it.

    Each is taken to go on unless its length ends it. Returns None where something runs that is
    not in the plan, or prefills, or where blocks are short.

    Args:
        plan: a step that was not committed.
        num_running: sequences in the batch.
        blocks: where new blocks come from.
        block_size: tokens of a block.
    """
    if any(item.count != 1 or not item.samples for item in plan.scheduled):
        return None
    running = [
        item.sequence for item in plan.scheduled if item.sequence.phase is SequencePhase.RUNNING
    ]
    if len(running) != num_running:
        return None
    going = [each for each in running if each.num_output_tokens + 1 < each.params.max_tokens]
    growing = [each for each in going if each.num_tokens >= len(each.block_ids) * block_size]
    if not going or len(growing) > blocks.num_available:
        return None
    for sequence in growing:
        sequence.block_ids += blocks.allocate(1)
    return StepPlan(
        [Scheduled(sequence, sequence.num_tokens, 1, (sequence.num_tokens,)) for sequence in going]
    )

"""The waiting queue keeps the order of arrival and its own books."""

from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.sequence import Sequence
from steelyard_runtime.core.waiting import WaitingQueue


def sequence(index: int, *, remote: bool = False, block_ids: tuple[int, ...] = ()) -> Sequence:
    made = Sequence(f"r{index}", [1], 1, SamplingParams(max_tokens=1), arrival_index=index)
    made.wants_remote = remote
    made.block_ids = list(block_ids)
    return made


def test_a_sequence_that_comes_back_stands_before_younger_ones():
    """The order is that of arrival, not that of insertion."""
    queue = WaitingQueue()
    for index in (2, 0, 1):
        queue.insert(sequence(index))
    assert [item.arrival_index for item in queue] == [0, 1, 2]


def test_remote_and_holding_sequences_are_counted_while_they_wait():
    """Removal, a pull that proved needless and lost blocks are all noted."""
    queue = WaitingQueue()
    remote, holder, found = sequence(0, remote=True), sequence(1, block_ids=(3,)), sequence(2)
    found.wants_remote = True
    for item in (remote, holder, found):
        queue.insert(item)
    assert (queue.num_remote, list(queue.holders)) == (2, ["r1"])
    queue.hold(found)
    assert (queue.num_remote, list(queue.holders), found.wants_remote) == (1, ["r1", "r2"], False)
    queue.remove(remote)
    queue.remove(holder)
    assert (queue.num_remote, list(queue.holders), len(queue)) == (0, ["r2"], 1)
    queue.drop_blocks(found)
    assert (list(queue.holders), list(queue)) == ([], [found])

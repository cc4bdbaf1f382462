"""The sequences that wait for a place in the batch, oldest first.

A waiting sequence may hold blocks already: its prompt's KV has landed, or was found whole.
"""

from bisect import insort
from collections.abc import Iterator
from operator import attrgetter

from steelyard_runtime.core.sequence import Sequence, SequencePhase

by_arrival = attrgetter("arrival_index")


class WaitingQueue:
    """Waiting sequences in the order of arrival, whichever way they come back."""

    def __init__(self) -> None:
        self._queue: list[Sequence] = []
        self._holders: dict[str, Sequence] = {}
        self._num_remote = 0

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Sequence]:
        """Go through a snapshot, so that sequences may be removed on the way."""
        return iter(tuple(self._queue))

    @property
    def num_remote(self) -> int:
        """How many still want their prompt's KV pulled."""
        return self._num_remote

    @property
    def holders(self) -> dict[str, Sequence]:
        """Sequences that hold blocks while they wait."""
        return self._holders

    def insert(self, sequence: Sequence) -> None:
        """Queue a sequence behind the older ones."""
        sequence.phase = SequencePhase.WAITING
        insort(self._queue, sequence, key=by_arrival)
        self._num_remote += sequence.wants_remote
        if sequence.block_ids:
            self._holders[sequence.request_id] = sequence

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands."""
        self._queue.remove(sequence)
        self._num_remote -= sequence.wants_remote
        self._holders.pop(sequence.request_id, None)

    def hold(self, sequence: Sequence) -> None:
        """Note that a waiting sequence got its blocks without a pull."""
        self._num_remote -= sequence.wants_remote
        sequence.wants_remote = False
        self._holders[sequence.request_id] = sequence

    def drop_blocks(self, sequence: Sequence) -> None:
        """Note that a waiting sequence lost its blocks."""
        del self._holders[sequence.request_id]

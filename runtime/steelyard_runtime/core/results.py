"""What a step brought to a sequence: computed positions, and tokens at the end of them."""

from collections.abc import Sequence as Tokens

from steelyard_runtime.core.batch import Scheduled
from steelyard_runtime.core.finish import append_tokens
from steelyard_runtime.core.limits import Counters
from steelyard_runtime.core.prefix_cache import PrefixCache
from steelyard_runtime.core.sequence import Sequence


class StepResults:
    """Takes results into sequences and publishes the blocks that they fill."""

    def __init__(
        self, eos_token_ids: frozenset[int], prefixes: PrefixCache, counters: Counters
    ) -> None:
        self._eos_token_ids = eos_token_ids
        self._prefixes = prefixes
        self._counters = counters

    def take(self, item: Scheduled, token_ids: Tokens[int]) -> None:
        """Take in one sequence's part of a step; `token_ids` where it reached the last token.

        Raises:
            ValueError: it did, and no token came.
        """
        sequence, end = item.sequence, item.start + item.count
        if end < sequence.num_tokens:
            sequence.num_computed = end
            self._prefixes.publish(sequence)
        elif not token_ids:
            raise ValueError(f"no token came for {sequence.request_id}")
        else:
            self._take_tokens(sequence, end, token_ids)

    def _take_tokens(self, sequence: Sequence, end: int, token_ids: Tokens[int]) -> None:
        if not sequence.is_prefilled:
            sequence.is_prefilled = True
            self._counters.prompt_tokens += sequence.num_prompt_tokens
        appended = append_tokens(sequence, token_ids, self._eos_token_ids)
        self._counters.generation_tokens += appended
        # Positions of rejected draft tokens hold KV that must not be found.
        sequence.num_computed = min(end, sequence.num_tokens - bool(appended))
        self._prefixes.publish(sequence)

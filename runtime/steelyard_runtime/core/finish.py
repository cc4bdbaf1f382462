"""When a sequence ends, seen from its token ids alone; stop strings are the HTTP side's."""

from collections.abc import Iterable

from steelyard_runtime.core.sequence import Sequence


def finish_reason(sequence: Sequence, eos_token_ids: frozenset[int]) -> str | None:
    """Return `stop` or `length` if the sequence's tokens are its last, else None."""
    params = sequence.params
    num_output = sequence.num_output_tokens
    if num_output and num_output >= params.min_tokens:
        last = sequence.tokens[-1]
        if (last in eos_token_ids and not params.ignore_eos) or last in params.stop_token_ids:
            return "stop"
    if num_output >= params.max_tokens:
        return "length"
    return None


def append_tokens(
    sequence: Sequence, token_ids: Iterable[int], eos_token_ids: frozenset[int]
) -> int:
    """Append sampled tokens until the sequence ends; set `finish_reason` and return how many.

    A sequence that is complete already (`max_tokens` 0, or resumed with all its output) takes
    none and ends.
    """
    appended = 0
    for token_id in token_ids:
        # Before the first token of this call too: a resumed sequence may be complete.
        sequence.finish_reason = finish_reason(sequence, eos_token_ids)
        if sequence.finish_reason:
            return appended
        sequence.tokens.append(token_id)
        appended += 1
    sequence.finish_reason = finish_reason(sequence, eos_token_ids)
    return appended

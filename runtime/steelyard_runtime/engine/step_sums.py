"""How long steps take and what is in them, as sums that a least-squares fit needs and no more.

Sums of several workers add up, and a reader takes differences as rarely as it likes. Steps that
carry prompts and answers at once are left out: they tell neither cost apart.
"""

from steelyard_runtime.core.batch import StepPlan


class StepSums:
    """Sums over all steps since the engine began."""

    def __init__(self, kv_tokens: int, max_sequences: int, prefill_step_tokens: int) -> None:
        """Begin at zero.

        Args:
            kv_tokens: that the KV pool holds.
            max_sequences: of one step.
            prefill_step_tokens: the most prompt tokens of one step.
        """
        self._kv_tokens = kv_tokens
        self._max_sequences = max_sequences
        self._prefill_step_tokens = prefill_step_tokens
        self._prefill = dict.fromkeys(
            ("count", "seconds", "tokens", "tokensSquared", "tokenSeconds"), 0.0
        )
        self._decode = dict.fromkeys(
            (
                *("count", "seconds", "sequences", "kvTokens"),
                *("sequencesSquared", "kvTokensSquared", "sequencesKvTokens"),
                *("sequenceSeconds", "kvTokenSeconds"),
            ),
            0.0,
        )

    def add(self, plan: StepPlan, seconds: float) -> None:
        """Take in one step, if it is a prefill or a decode step.

        Args:
            plan: as it was run, after it was committed.
            seconds: from its start to its tokens.
        """
        items = plan.scheduled
        decoding = [
            item
            for item in items
            if item.count == 1 and item.start >= item.sequence.num_prompt_tokens
        ]
        if not decoding:
            tokens = float(sum(item.count for item in items))
            sums = self._prefill
            sums["count"] += 1
            sums["seconds"] += seconds
            sums["tokens"] += tokens
            sums["tokensSquared"] += tokens * tokens
            sums["tokenSeconds"] += tokens * seconds
        elif len(decoding) == len(items):
            sequences = float(len(items))
            kv_tokens = float(sum(item.start for item in items))
            sums = self._decode
            sums["count"] += 1
            sums["seconds"] += seconds
            sums["sequences"] += sequences
            sums["kvTokens"] += kv_tokens
            sums["sequencesSquared"] += sequences * sequences
            sums["kvTokensSquared"] += kv_tokens * kv_tokens
            sums["sequencesKvTokens"] += sequences * kv_tokens
            sums["sequenceSeconds"] += sequences * seconds
            sums["kvTokenSeconds"] += kv_tokens * seconds

    def document(self) -> dict[str, object]:
        """Return the part `steps` of `GET /state`: counts, tokens, seconds and their products."""
        return {
            "prefill": dict(self._prefill),
            "decode": dict(self._decode),
            "kvTokens": self._kv_tokens,
            "maxSequences": self._max_sequences,
            "prefillStepTokens": self._prefill_step_tokens,
        }

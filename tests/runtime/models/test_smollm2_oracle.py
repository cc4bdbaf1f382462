"""SmolLM2 over the paged cache makes the ids and logits of transformers."""

import random

import pytest

from steelyard_runtime.testing.oracle import Oracle
from steelyard_runtime.testing.paged_runs import PagedRun

pytestmark = pytest.mark.model

LOGIT_TOLERANCE = 1e-3
OUTPUT_TOKENS = 16


def a_prompt(length: int) -> list[int]:
    """Return ids of a chat that begins as the template does and goes on at random."""
    words = random.Random(length)
    return [1, 4093, 198, *(words.randrange(300, 40_000) for _ in range(length - 3))]


@pytest.mark.parametrize("chunk", [10_000, 33], ids=["whole", "chunked"])
@pytest.mark.parametrize("length", [5, 37, 300])
def test_greedy_ids_and_logits_equal_transformers(
    smollm2: PagedRun, smollm2_oracle: Oracle, length: int, chunk: int
) -> None:
    """Prefilled whole or in chunks, a sequence takes the oracle's greedy path."""
    prompt = a_prompt(length)
    sequence = smollm2.sequence(prompt)

    (output,) = smollm2.greedy([sequence], OUTPUT_TOKENS, chunk)

    difference = smollm2_oracle.first_difference(prompt, output)
    assert difference is None or difference.is_tie
    again = smollm2.sequence([*prompt, *output])
    (logits,) = smollm2.step((again, again.num_pending))
    error = (logits - smollm2_oracle.logits(again.tokens)).abs().max()
    assert error < LOGIT_TOLERANCE


def test_a_mixed_batch_takes_the_oracles_path(smollm2: PagedRun, smollm2_oracle: Oracle) -> None:
    """Sixteen sequences that prefill and decode in the same steps do not disturb each other."""
    prompts = [a_prompt(5 + 11 * index) for index in range(16)]
    sequences = [smollm2.sequence(prompt, 24) for prompt in prompts]

    outputs = smollm2.greedy(sequences, 8, chunk=50)

    found = [
        smollm2_oracle.first_difference(prompt, output)
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    assert [one for one in found if one is not None and not one.is_tie] == []

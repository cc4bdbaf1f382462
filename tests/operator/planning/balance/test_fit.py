"""Step times become a capacity: right where they tell it, careful where they do not."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard_operator.planning.balance.fit import (
    REMEMBERED_DECODE_STEPS,
    StepSums,
    capacity,
)
from steelyard_operator.testing.demand import step_sums

PROMPTS = [(tokens, 0.005 + tokens / 2000) for tokens in (20, 100, 500, 300, 60, 80)]


def decode_steps(
    a: float, b: float, c: float, sequences: Sequence[int] = range(1, 41)
) -> list[tuple[float, float, float]]:
    """Return steps of these costs over sequences with contexts of unlike lengths."""
    return [(s, k, a + b * s + c * k) for s in sequences for k in (s * 100, s * 200, s * 330)]


def test_costs_are_found_again_where_the_load_varied() -> None:
    """Prefill exactly, decode but for the pull of the prior."""
    found = capacity(step_sums(PROMPTS, decode_steps(0.02, 0.003, 1e-5)))

    assert found is not None
    assert found.prefill_tokens_per_second == pytest.approx(2000)
    assert found.prefill_overhead_seconds == pytest.approx(0.005)
    for sequences in (1, 10, 40):
        expected = 0.02 + 0.003 * sequences + 1e-5 * sequences * 200
        assert found.step(sequences, sequences * 200) == pytest.approx(expected, rel=0.1)
    assert (found.kv_tokens, found.max_sequences) == (100_000, 64)


def test_before_enough_steps_nothing_is_said() -> None:
    """A planner must not act on a handful of steps."""
    steps = decode_steps(0.02, 0.003, 1e-5)

    assert capacity(StepSums()) is None
    assert capacity(step_sums(PROMPTS[:4], steps)) is None
    assert capacity(step_sums(PROMPTS, steps[:19])) is None


def test_steps_that_are_all_alike_are_divided_evenly() -> None:
    """One sequence after the other tells nothing of batches: more are taken to cost more."""
    found = capacity(step_sums(PROMPTS, [(1, 200, 0.030)] * 50))

    assert found is not None
    assert found.step(1, 200) == pytest.approx(0.030, rel=1e-6)
    assert 0.045 < found.step(4, 800) < 0.12


def test_prompts_that_are_all_alike_give_a_rate() -> None:
    """Nothing tells a fixed cost apart, so there is none."""
    found = capacity(step_sums([(100, 0.1)] * 10, decode_steps(0.02, 0.003, 0)))

    assert found is not None
    assert found.prefill_tokens_per_second == pytest.approx(1000)
    assert found.prefill_overhead_seconds == 0.0


@given(
    st.lists(
        st.tuples(
            st.integers(1, 64), st.integers(1, 100_000), st.floats(0.001, 1, allow_nan=False)
        ),
        min_size=20,
        max_size=60,
    )
)
def test_no_cost_is_negative_whatever_was_measured(steps: list[tuple[int, int, float]]) -> None:
    """Noise must not make a longer batch cheaper."""
    found = capacity(step_sums(PROMPTS, steps))

    assert found is not None
    assert found.step_seconds >= 0
    assert found.step_seconds_per_sequence >= 0
    assert found.step_seconds_per_token >= 0
    assert found.step(1, 1) > 0


def test_differences_and_sums_are_those_of_the_steps() -> None:
    """What came since the last reading; everything, where the worker began anew."""
    first = step_sums(PROMPTS[:3], decode_steps(0.02, 0.003, 0)[:30])
    both = step_sums(PROMPTS, decode_steps(0.02, 0.003, 0)[:60])
    rest = step_sums(PROMPTS[3:], decode_steps(0.02, 0.003, 0)[30:60])

    assert both.since(first).decode == pytest.approx(rest.decode)
    assert both.since(first).prefill == pytest.approx(rest.prefill)
    assert first.since(both) == first
    assert first.plus(rest).decode == pytest.approx(both.decode)


def test_old_steps_fade() -> None:
    """After a change of the machine's speed the fit follows."""
    slow, fast = decode_steps(0.2, 0.03, 0), decode_steps(0.02, 0.003, 0)
    total = StepSums()
    for steps in (slow, fast):
        for _ in range(6 * REMEMBERED_DECODE_STEPS // len(steps)):
            total = total.plus(step_sums(PROMPTS, steps))

    found = capacity(total)
    assert found is not None
    assert found.step(10, 2000) == pytest.approx(0.05, rel=0.3)
    assert total.decode[0] <= REMEMBERED_DECODE_STEPS * 1.01


def test_a_workers_document_is_read() -> None:
    """The names are those of `GET /state`."""
    document = {
        "prefill": {
            "count": 1, "seconds": 2, "tokens": 3, "tokensSquared": 4, "tokenSeconds": 5,
        },
        "decode": {
            "count": 1, "seconds": 2, "sequences": 3, "kvTokens": 4, "sequencesSquared": 5,
            "kvTokensSquared": 6, "sequencesKvTokens": 7, "sequenceSeconds": 8,
            "kvTokenSeconds": 9,
        },
        "kvTokens": 640,
        "maxSequences": 8,
        "prefillStepTokens": 256,
    }  # fmt: skip

    read = StepSums((1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7, 8, 9), 640, 8, 256)
    assert StepSums.read(document) == read
    older = {name: value for name, value in document.items() if name != "prefillStepTokens"}
    assert StepSums.read(older) == replace(read, prefill_step_tokens=0)
    with pytest.raises(KeyError):
        StepSums.read({**document, "decode": {}})

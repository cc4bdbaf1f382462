"""From logits to token ids."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.sampling import filters, processors
from steelyard_runtime.sampling.logprobs import likeliest_of, token_logprobs
from steelyard_runtime.sampling.sampler import Row, sample

VOCABULARY = 512


def params(**changes: object) -> SamplingParams:
    """Parameters with everything off but what is named."""
    return SamplingParams(max_tokens=16, **changes)  # type: ignore[arg-type]


def row(given: SamplingParams, output: tuple[int, ...] = (), allowed: Tensor | None = None) -> Row:
    """A row after the prompt (1, 2, 3)."""
    return Row(given, [1, 2, 3, *output], 3, ending_ids=(0,), allowed=allowed)


def logits(seed: int = 0, rows: int = 1) -> Tensor:
    """Random logits (rows, VOCABULARY)."""
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def test_greedy_takes_the_likeliest_token() -> None:
    """Temperature 0 is argmax."""
    values = logits(rows=4)

    assert sample(values, [row(params(temperature=0.0))] * 4) == values.argmax(-1).tolist()


@pytest.mark.parametrize(
    "changes",
    [{}, {"top_p": 0.8}, {"top_k": 20}, {"min_p": 0.05}, {"top_k": 30, "top_p": 0.5}],
    ids=str,
)
def test_a_row_does_not_depend_on_its_batch(changes: dict[str, float]) -> None:
    """A seeded row gives the same token alone and among fifteen others."""
    values = logits(rows=16)
    rows = [row(params(seed=index, **changes)) for index in range(16)]

    assert sample(values, rows) == [
        sample(values[index : index + 1], [rows[index]])[0] for index in range(16)
    ]


def exact_nucleus(probabilities: Tensor, top_p: float) -> set[int]:
    """The fewest tokens, likeliest first, whose mass reaches top_p."""
    kept: set[int] = set()
    mass = 0.0
    for index in torch.sort(probabilities, descending=True, stable=True).indices.tolist():
        kept.add(index)
        mass += float(probabilities[index].double())
        if mass >= top_p * float(probabilities.double().sum()):
            break
    return kept


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), top_p=st.floats(0.05, 0.999), scale=st.floats(0.1, 6.0))
def test_top_p_keeps_the_nucleus(seed: int, top_p: float, scale: float) -> None:
    """The candidates are those of the definition, computed the slow way."""
    values = logits(seed)[0] * scale
    ids, probabilities = filters.candidates(values, params(temperature=1.0, top_p=top_p))
    assert ids is not None
    expected = exact_nucleus(torch.softmax(values, -1), top_p)

    # Float sums in another order may place the last token on the other side of the border.
    assert len(set(ids.tolist()) ^ expected) <= 1
    assert ids.tolist() == sorted(ids.tolist())
    assert probabilities.shape == ids.shape


def test_top_k_keeps_k_tokens_and_min_p_the_likely_ones() -> None:
    """Both filters keep exactly what their definitions say."""
    values = logits(3)[0]
    probabilities = torch.softmax(values, -1)

    ids, _ = filters.candidates(values, params(temperature=1.0, top_k=7))
    assert ids is not None and set(ids.tolist()) == set(torch.topk(values, 7).indices.tolist())
    ids, _ = filters.candidates(values, params(temperature=1.0, min_p=0.2))
    keep = (probabilities >= 0.2 * probabilities.max()).nonzero().flatten()
    assert ids is not None and ids.tolist() == keep.tolist()


def test_drawn_tokens_follow_the_distribution() -> None:
    """Over many seeds the frequencies match the probabilities (chi-squared, p = 0.001)."""
    values = torch.tensor([[2.0, 1.0, 0.0, -1.0, 0.5]])
    counts = [0] * 5
    for seed in range(4000):
        token = sample(values, [Row(params(temperature=1.0, seed=seed), [], 0, ())])[0]
        counts[token] += 1
    expected = torch.softmax(values[0], -1) * 4000

    assert float((((torch.tensor(counts) - expected) ** 2) / expected).sum()) < 18.5


def test_a_token_without_mass_is_never_drawn() -> None:
    """Whatever the numbers are, a token of probability zero does not win."""
    probabilities = torch.tensor([0.0, 0.25, 0.75, 0.0])
    edges = torch.tensor([1.0 - 2**-53, 2**-53, 2**-53, 1.0 - 2**-53], dtype=torch.float64)

    assert filters.draw(None, probabilities, edges) in (1, 2)


def test_the_last_bits_of_the_logits_do_not_decide() -> None:
    """A seeded token survives rounding as another batch or a split prefill make it."""
    values = torch.randn(1, 49_152, generator=torch.Generator().manual_seed(1)) * 2.5
    noise = torch.randn(1, 49_152, generator=torch.Generator().manual_seed(2)) * 1e-5
    rows = [row(params(temperature=0.9, seed=seed)) for seed in range(400)]

    changed = [one for one in rows if sample(values, [one]) != sample(values + noise, [one])]

    assert changed == []


@pytest.mark.parametrize(
    ("changes", "output", "index", "expected"),
    [
        ({"logit_bias": {5: 2.5}}, (), 5, 3.5),
        ({"presence_penalty": 0.5}, (5, 5), 5, 0.5),
        ({"frequency_penalty": 0.5}, (5, 5), 5, 0.0),
        ({"repetition_penalty": 2.0}, (), 2, 0.5),
        ({"repetition_penalty": 2.0}, (5,), 5, 0.5),
        ({"presence_penalty": 0.5}, (5, 5), 2, 1.0),
    ],
    ids=str,
)
def test_processors_change_what_they_say(
    changes: dict[str, object], output: tuple[int, ...], index: int, expected: float
) -> None:
    """Bias and penalties move the logit of the tokens that they are about."""
    values = torch.ones(VOCABULARY)
    for _ in processors.changes(
        values,
        params(**changes),
        prompt=[1, 2, 3],
        output=output,
        ending_ids=(0,),
        allowed=None,
    ):
        pass

    assert float(values[index]) == pytest.approx(expected)


def test_the_end_is_forbidden_before_min_tokens() -> None:
    """A sequence whose likeliest token is the end goes on until `min_tokens`."""
    values = logits()
    values[0, 0] = 100.0

    assert sample(values, [row(params(temperature=0.0, min_tokens=2), (9,))])[0] != 0
    assert sample(values, [row(params(temperature=0.0, min_tokens=1), (9,))])[0] == 0


def test_a_mask_leaves_only_what_the_grammar_allows() -> None:
    """The only allowed token is taken, and the end where `min_tokens` would leave nothing."""
    allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
    allowed[0] = True
    from steelyard_runtime.core.params import Grammar

    given = params(temperature=0.0, min_tokens=5, grammar=Grammar("json_object"))

    assert sample(logits(), [row(given, allowed=allowed)])[0] == 0


@pytest.mark.parametrize("width", [1024, 1280, 997], ids=str)
@pytest.mark.parametrize("count", [0, 1, 7, 20])
def test_the_likeliest_of_a_group_search_are_those_of_all(width: int, count: int) -> None:
    """Whatever the vocabulary's width, and with minus infinity among the values."""
    values = torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    values[1, 3:] = float("-inf")
    ids, found = likeliest_of(values, count)
    expected = torch.topk(values, count)

    assert torch.equal(found, expected.values)
    assert torch.equal(values.gather(1, ids), expected.values)


def test_logprobs_are_of_the_raw_logits() -> None:
    """The sampled token's log probability and the most likely others are given."""
    values = torch.tensor([0.0, 2.0, 1.0])
    (described,) = token_logprobs(values.unsqueeze(0), [2], 2)
    expected = torch.log_softmax(values, -1)

    assert described.logprob == pytest.approx(float(expected[2]))
    assert [token for token, _ in described.top] == [1, 2]

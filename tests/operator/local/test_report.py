"""What is printed about an answer, and what it costs."""

import json
import shlex
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard_operator.local.answer import Answer
from steelyard_operator.local.cost import Price
from steelyard_operator.local.observing import RouterView
from steelyard_operator.local.report import as_json, as_lines, curl

ANSWER = Answer("abc", 0.5, 2.5, 3.6, prompt_tokens=60, completion_tokens=40)
PRICE = Price(Decimal("0.2"), "EUR")


def test_cost_counts_all_workers_and_all_tokens() -> None:
    """0.20 an hour for 9 s is 0.0005; over 100 tokens that is 5 a million."""
    assert PRICE.per_million_tokens(wall_seconds=9, tokens=100) == Decimal(5)


def test_no_token_has_no_cost() -> None:
    """Nothing is divided by zero."""
    assert PRICE.per_million_tokens(wall_seconds=1, tokens=0) is None


@given(st.decimals("0.01", "1000", places=2), st.floats(0.001, 1e4), st.integers(1, 10**6))
def test_cost_is_proportional(hourly: Decimal, seconds: float, tokens: int) -> None:
    """Twice the price costs twice, twice the tokens half."""
    cost = Price(hourly, "USD").per_million_tokens(wall_seconds=seconds, tokens=tokens)
    double = Price(hourly * 2, "USD").per_million_tokens(wall_seconds=seconds, tokens=tokens)
    half = Price(hourly, "USD").per_million_tokens(wall_seconds=seconds, tokens=tokens * 2)

    assert cost is not None
    assert float(double or 0) == pytest.approx(float(cost) * 2)
    assert float(half or 0) == pytest.approx(float(cost) / 2)


def test_lines_for_people() -> None:
    """Figures have units; the cost shows what it is made of."""
    router = RouterView(frozenset(), "s-0", "s-1", "remote")

    assert as_lines(ANSWER, PRICE, router) == [
        "TTFT      500 ms",
        "TPOT      51.3 ms",
        "speed     11.1 tokens/s",
        "$/Mtok    2.00 EUR   all workers cost 0.2 EUR/h x 3.60 s / (60 prompt + 40 output tokens)",
        "workers   prefill on s-0, decode on s-1",
    ]


def test_lines_without_a_price() -> None:
    """A file without a price gets token counts and no cost."""
    assert as_lines(ANSWER, None, None)[3:] == ["tokens    60 prompt + 40 output in 3.60 s"]


def test_a_prompt_that_stayed_on_decode_says_why() -> None:
    """The reader learns why no prefill worker took part."""
    router = RouterView(frozenset(), None, "s-1", "short")

    line = as_lines(ANSWER, None, router)[-1]
    assert line == "workers   prefill on s-1, decode on s-1 (the prompt is short)"


def test_json_without_a_price_says_null() -> None:
    """The keys are always there."""
    document = as_json(ANSWER, url="u", model="m", price=None, router=None)

    assert document["cost_per_million_tokens"] is None
    assert document["price_per_hour"] is None


def test_the_curl_line_survives_the_shell() -> None:
    """Whatever the model is called, the body arrives as JSON."""
    *_, body = shlex.split(curl("http://127.0.0.1:1", 'it\'s "m"'))

    assert json.loads(body)["model"] == 'it\'s "m"'

"""Routers' sums become what came between, and latencies, and costs."""

import pytest

from steelyard_operator.planning.balance.meter import WINDOW_SECONDS, Meter
from steelyard_operator.planning.balance.readings import (
    Between,
    RouterReading,
    between,
    quantile_seconds,
)
from steelyard_operator.planning.balance.signals import Split


def reading(id: str, requests: int, **more: object) -> RouterReading:
    """A router after so many requests of 100 tokens in and 10 out, TTFT 64 ms, TPOT 8 ms."""
    return RouterReading.read(
        {
            "id": id,
            "arrived": requests,
            "inputTokens": 100 * requests,
            "inputTokensSquared": 10_000 * requests,
            "finished": requests,
            "outputTokens": 10 * requests,
            "contextTokens": 110 * requests,
            "backlogTokens": 0,
            "backlog": 0,
            "decoding": 0,
            "ttft": [requests if place == 12 else 0 for place in range(40)],
            "tpot": [requests if place == 6 else 0 for place in range(40)],
            **more,
        }
    )


def test_several_routers_add_up() -> None:
    """Their differences, and what is open at all of them; a new router counts whole."""
    before = {"a": reading("a", 5), "b": reading("b", 7)}
    now = [reading("a", 8, decoding=2), reading("c", 4, backlog=1, backlogTokens=100)]

    came = between(before, now, 5.0)

    assert (came.arrived, came.output_tokens, came.input_tokens) == (7, 70, 700)
    assert (came.backlog, came.backlog_tokens, came.decoding) == (1, 100, 2)
    assert (dict(came.ttft), dict(came.tpot)) == ({12: 7}, {6: 7})
    signals = came.signals(Split(1, 2))
    assert (signals.seconds, signals.requests, signals.input_tokens) == (5.0, 7, 700)
    assert (signals.prefill, signals.decode, signals.backlog_tokens) == (1, 2, 100)


def test_what_is_cached_needs_no_prefill() -> None:
    """Prompts count by what has to be computed of them, waiting ones too."""
    before = {"a": reading("a", 0)}
    more = {"prefilledTokens": 1000, "cachedTokens": 600}
    came = between(before, [reading("a", 10, backlogTokens=500, **more)], 5.0)

    assert came.prefilled == (1000, 600)
    signals = came.signals(Split(1, 1), cached_share=0.6)
    assert (signals.input_tokens, signals.backlog_tokens) == (400, 200)
    assert signals.input_tokens_squared == pytest.approx(100_000 * 0.16)
    assert (signals.requests, signals.context_tokens) == (10, 1100)


@pytest.mark.parametrize(
    ("now", "idle"),
    [
        ([reading("a", 5)], True),
        ([reading("a", 6)], False),
        ([reading("a", 5, decoding=1)], False),
        ([reading("a", 5, backlog=1)], False),
        ([], True),
    ],
)
def test_idle_is_when_nothing_came_and_nothing_is_open(
    now: list[RouterReading], idle: bool
) -> None:
    """An open request is no idleness, however long it takes."""
    assert between({"a": reading("a", 5)}, now, 5.0).idle is idle


@pytest.mark.parametrize(
    ("buckets", "share", "seconds"),
    [
        ({}, 0.95, None),
        ({12: 100}, 1.0, 0.064),
        ({12: 50, 14: 50}, 0.5, 0.064),
        ({12: 50, 14: 50}, 1.0, 0.128),
        ({12: 100}, 0.5, 0.0538),
    ],
)
def test_a_share_of_the_latencies(
    buckets: dict[int, int], share: float, seconds: float | None
) -> None:
    """Inside of a bucket the scale is logarithmic."""
    found = quantile_seconds(buckets, share)
    assert found == (None if seconds is None else pytest.approx(seconds, rel=0.001))


def test_the_meter_tells_cost_by_role_and_latency() -> None:
    """Two prefill and one decode worker at 3 dollars an hour for ten minutes."""
    meter = Meter()
    requests = 0
    before = reading("a", 0)
    for _ in range(120):
        requests += 10
        now = reading("a", requests)
        meter = meter.plus(between({"a": before}, [now], 5.0), Split(2, 1))
        before = now

    total = meter.total
    assert (total.seconds, total.prefill_seconds, total.decode_seconds) == (600, 1200, 600)
    assert (total.input_tokens, total.output_tokens) == (120_000, 12_000)
    cost = meter.total.cost(3.0)
    assert cost.tokens == pytest.approx(1.5 / 0.132)
    assert cost.input == pytest.approx(1.0 / 0.120)
    assert cost.output == pytest.approx(0.5 / 0.012)
    ttft, tpot = meter.total.latencies(1.0)
    assert (ttft, tpot) == (pytest.approx(0.064), pytest.approx(0.008))


def test_the_meter_forgets() -> None:
    """Only the last ten minutes count, and a long pause between readings stays one entry."""
    meter = Meter().plus(Between(seconds=5.0, sums=(1, 100, 1e4, 1, 10, 110)), Split(1, 1))
    assert meter.total.output_tokens == 10
    for _ in range(12):
        meter = meter.plus(Between(seconds=60.0), Split(1, 1))

    assert meter.total.output_tokens == 0
    assert meter.total.seconds <= WINDOW_SECONDS + 60
    assert meter.total.cost(1.0).tokens is None
    assert meter.total.latencies(0.95) == (None, None)

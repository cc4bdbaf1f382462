"""The rate of now: all that the window has, or what came since the traffic became another."""

import random
from collections.abc import Sequence

import pytest

from steelyard_operator.planning.balance.forecast import MARGIN, forecast, quieter
from steelyard_operator.planning.balance.signals import Signals

TICK = 5.0


def tick(lengths: Sequence[int]) -> Signals:
    """Return a tick in which prompts of these lengths came, and none was answered."""
    return Signals(
        seconds=TICK,
        requests=len(lengths),
        input_tokens=sum(lengths),
        input_tokens_squared=float(sum(length**2 for length in lengths)),
        finished=0,
        finished_output_tokens=0,
        context_tokens=0,
        backlog_tokens=0,
        decoding=0,
        prefill=2,
        decode=1,
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([500] * 5, [20] * 15, id="long prompts, then many short ones"),
        pytest.param([20] * 15, [500] * 5, id="short prompts, then few long ones"),
    ],
)
def test_two_ticks_of_other_traffic_are_the_rate_of_now(
    before: list[int], after: list[int]
) -> None:
    """What came before the turn is in the window, and counts no more."""
    history = [tick(before)] * 30
    turned = forecast([*history, *[tick(after)] * 2], 10.0).demand
    settled = forecast([tick(after)] * 2, 10.0).demand

    assert forecast([*history, tick(after)], 10.0).demand.spread > 1.0, "one tick says little"
    assert turned.requests == settled.requests
    assert turned.spread == settled.spread == 1.0


def test_the_noise_of_steady_traffic_is_no_turn() -> None:
    """Of unequal prompts whose arrivals are random, the whole window counts nearly always."""
    draw = random.Random(1)

    def noisy() -> Signals:
        count = sum(draw.random() < 0.01 for _ in range(1000))  # about ten, as a Poisson number
        return tick([round(draw.lognormvariate(6, 0.8)) for _ in range(count)])

    history = [noisy() for _ in range(2000)]
    shortened = 0
    for end in range(12, len(history)):
        window = history[end - 12 : end]
        whole = sum(each.requests for each in window)
        expected = (whole + MARGIN * whole**0.5) / (12 * TICK)
        shortened += forecast(window, 0.0).demand.requests != pytest.approx(expected)

    assert shortened <= len(history) / 200


@pytest.mark.parametrize(
    ("before", "after", "quiet"),
    [
        pytest.param([500] * 5, [20] * 15, (True, False), id="more, but shorter prompts"),
        pytest.param([500] * 5, [500] * 9, (False, False), id="more of the same"),
        pytest.param([500] * 5, [500] * 2, (True, True), id="less of the same"),
        pytest.param([20] * 15, [500] * 5, (False, True), id="fewer, but longer prompts"),
    ],
)
def test_a_role_is_quieter_by_what_it_gets(
    before: list[int], after: list[int], quiet: tuple[bool, bool]
) -> None:
    """Prefill by prompt tokens, decode by requests: the last seconds against the minute."""
    assert quieter([*[tick(before)] * 12, *[tick(after)] * 2]) == quiet
    assert quieter([]) == (False, False)

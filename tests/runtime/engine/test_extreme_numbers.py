"""Whatever numbers one request brings, eight other streams get what they get undisturbed."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard_runtime.core.params import Grammar, SamplingParams
from steelyard_runtime.testing.undisturbed import (
    JSON,
    PROMPT_TOKENS,
    STREAMS,
    Streams,
    prompt,
    victim,
)

FLOAT_FIELDS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
EXTREMES = [
    float("nan"), float("inf"), float("-inf"), 1e-320, 1e-46, 1e-45, 1e-38, 1e-6, -1e-45, -1.0, 0.0,
    1.0, 2.0, 100.0, 3.4e38, 1e308, -1e308,
]  # fmt: skip
INTEGERS = [-(2**63), -(2**31), -1, 0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1]
IDS = st.lists(st.sampled_from([*INTEGERS, 5, 49151, 49152]), max_size=3)
FIELDS = {
    **dict.fromkeys(
        FLOAT_FIELDS,
        st.sampled_from(EXTREMES),
    ),
    **dict.fromkeys(("top_k", "seed", "min_tokens"), st.sampled_from(INTEGERS)),
    "choice_index": st.sampled_from([0, 127, 2**31 - 1]),
    "max_tokens": st.sampled_from([-1, 0, 1, 3]),
    "logprobs": st.sampled_from([-1, 0, 20, 2**31 - 1]),
    "prompt_logprobs": st.sampled_from([-1, 0, 20, 2**31 - 1]),
    "stop_token_ids": IDS.map(tuple),
    "logit_bias": st.dictionaries(
        st.sampled_from([*INTEGERS, 5, 6, 49151]), st.sampled_from(EXTREMES), max_size=2
    ),
    "grammar": st.sampled_from([JSON, Grammar("regex", "[a-z]+")]),
}  # fmt: skip


def test_each_field_at_each_extreme(streams: Streams) -> None:
    """Alone in its request, with the other fields as clients send them."""
    cases = [
        {"temperature": 1.0, "top_p": 0.9, "seed": 1, field: value}
        for field in FLOAT_FIELDS
        for value in EXTREMES
    ] + [{"temperature": 1.0, "top_k": value, "seed": value} for value in INTEGERS]
    victims = [victim(f"extreme-{index}", fields) for index, fields in enumerate(cases)]
    tokens, answers = streams.run(STREAMS, *victims)

    assert tokens == streams.expected
    assert {
        answers[one.request_id].last.error_status
        for one in victims
        if answers[one.request_id].last.finish_reason == "error"
    } <= {400}


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    wanted=st.lists(
        st.tuples(st.fixed_dictionaries({}, optional=FIELDS), IDS, IDS), min_size=6, max_size=6
    )
)
def test_fields_at_their_extremes_together(
    streams: Streams, wanted: list[tuple[dict[str, Any], list[int], list[int]]]
) -> None:
    """Six requests of wild numbers, which no validation has seen, end or fail by themselves."""
    victims = [
        victim(f"wild-{index}", fields, token_ids=ids or [3], resume_token_ids=resumed)
        for index, (fields, ids, resumed) in enumerate(wanted)
    ]
    tokens, answers = streams.run(STREAMS, *victims)

    assert tokens == streams.expected
    assert all(answers[one.request_id].last.finish_reason for one in victims)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"repetition_penalty": 1e-45, "top_p": 0.9}, None),
        ({"repetition_penalty": 1e-39, "min_p": 0.1}, None),
        (
            {"repetition_penalty": 1e-46, "temperature": 0.0, "grammar": JSON},
            None,
        ),
        ({"logit_bias": {5: float("inf")}}, 400),
        ({"stop_token_ids": (2**32 - 1,)}, 400),
    ],
    ids=["penalty", "penalty_minp", "penalty_json", "bias", "stop"],
)
def test_requests_that_ended_workers(
    streams: Streams, fields: dict[str, Any], status: int | None
) -> None:
    """They are answered, or refused with a sentence."""
    tokens, answers = streams.run(STREAMS, victim("poison", fields))
    last = answers["poison"].last

    assert tokens == streams.expected
    assert (last.error_status if last.finish_reason == "error" else None) == status


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("ahead", [False, True], ids=["in-step", "ahead"])
@pytest.mark.parametrize(
    "fields", [{"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.9}], ids=["greedy", "drawn"]
)
def test_logits_that_are_not_finite_are_told(
    streams: Streams,
    monkeypatch: pytest.MonkeyPatch,
    bad: float,
    ahead: bool,
    fields: dict[str, Any],
) -> None:
    """A damaged row ends its sequence with 500, and nobody finds its blocks."""
    runner = streams.rig.assembly.runner
    monkeypatch.setattr(runner, "runs_ahead", ahead)
    forward = runner.model.forward
    calls = 0

    def damaged(batch: Any, pool: Any) -> Any:
        nonlocal calls
        calls += 1
        logits = forward(batch, pool)
        if calls == 3:
            logits[-1] = bad
            logits[-1, 0] = bad if bad < 0 else 1.0
        return logits

    monkeypatch.setattr(runner.model, "forward", damaged)
    tokens, answers = streams.run([{"temperature": 0.0}] * 8, victim("damaged", fields))
    last = answers["damaged"].last

    assert tokens == streams.expected_plain
    assert (last.error_status, "not finite" in last.error) == (500, True)
    block = streams.engine._scheduler.config.block_size
    assert streams.engine._scheduler._prefixes.find(_same_prompt(block)) == []


def test_logits_of_a_prompt_that_are_not_finite_are_told(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log probabilities of the prompt are numbers, or the sequence ends with 500."""
    model = streams.rig.assembly.runner.model
    forward = model.forward

    def damaged(batch: Any, pool: Any) -> Any:
        logits = forward(batch, pool)
        logits[-3:-1] = float("nan")  # the victim's rows are the last ones
        return logits

    monkeypatch.setattr(model, "forward", damaged)
    streams.engine.add(victim("echoed", {"temperature": 0.0, "prompt_logprobs": 1}))
    last = streams.rig.finish({"echoed"})["echoed"].last

    assert (last.error_status, "not finite" in last.error) == (500, True)


def _same_prompt(block_tokens: int) -> Any:
    from steelyard_runtime.core.sequence import Sequence

    return Sequence("again", [*prompt(20), 1], PROMPT_TOKENS, SamplingParams(max_tokens=1))


def test_blocks_that_hold_nothing_finite_harm_no_later_sequence(streams: Streams) -> None:
    """Keys and values beyond a sequence's end are multiplied with nothing, not with zero."""
    streams.engine.reset_prefix_cache()
    streams.rig.assembly.runner.pool.tensor.fill_(float("nan"))

    assert streams.run(STREAMS)[0] == streams.expected

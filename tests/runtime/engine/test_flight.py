"""Steps that are launched before the tokens of the last one are read.

All of `test_engine.py` runs with such an engine, too.
"""

from collections.abc import Callable
from typing import Any

import pytest

from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.ipc.messages import AddRequest, Output

Expected = Callable[[list[int], int], list[int]]
PROMPT = [7, 8, 9, 10, 11, 12]


def request(request_id: str = "r", **params: Any) -> AddRequest:
    """A greedy request for four tokens."""
    return AddRequest(
        request_id, PROMPT, SamplingParams(**{"max_tokens": 4, "temperature": 0.0, **params})
    )


def tokens(outputs: list[Output]) -> list[int]:
    """All token ids of one request."""
    return [token for output in outputs for token in output.token_ids]


def test_the_next_step_is_launched_before_the_last_is_read(
    make_ahead: Any, expected_tokens: Expected
) -> None:
    """The tokens go from step to step without the host."""
    rig = make_ahead()
    rig.engine.add(request())
    seen, outputs = [], []
    while not outputs or outputs[-1].finish_reason is None:
        outputs += rig.engine.step()
        seen.append([pending.read for _, pending in rig.runner.launched])

    assert tokens(outputs) == expected_tokens(PROMPT, 4)
    # The prompt in the first step; then one is always in flight, and the last is not followed.
    assert seen == [[], [False], [True, False], [True, True, False], [True, True, True]]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.7, "seed": 1},
        {"logprobs": 1},
        {"presence_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"min_tokens": 2},
        {"logit_bias": {3: 1.0}},
    ],
)
def test_what_hangs_on_earlier_tokens_is_not_launched_ahead(
    make_ahead: Any, params: dict[str, Any]
) -> None:
    """Such a sequence is sampled on the host, and so is its whole batch."""
    rig = make_ahead()
    rig.engine.add(request())
    rig.engine.add(request("b", **params))
    rig.run()

    assert rig.runner.launched == []


def test_an_end_that_comes_while_the_next_step_flies_drops_its_token(
    make_ahead: Any, expected_tokens: Expected
) -> None:
    """The text ends where it should, and no block stays taken."""
    rig = make_ahead()
    for name, stops in (("a", True), ("b", False)):
        whole = expected_tokens(PROMPT, 2)
        params = {"max_tokens": 12, "stop_token_ids": (whole[1],) if stops else ()}
        rig.engine.add(request(name, **params))
    outputs = rig.run()

    assert tokens(outputs["a"]) == whole
    assert outputs["a"][-1].finish_reason == "stop"
    assert len(tokens(outputs["b"])) == 12
    assert rig.scheduler.blocks.counts().referenced == 0


def test_an_abort_while_a_step_flies_frees_after_it(make_ahead: Any) -> None:
    """The other sequence goes on as if nothing had been."""
    rig = make_ahead()
    for name in ("a", "b"):
        rig.engine.add(request(name, max_tokens=9))
    for _ in range(3):
        rig.engine.step()
    rig.engine.abort("a")
    assert rig.scheduler.blocks.counts().referenced > 3
    outputs = rig.run()

    assert outputs["a"][-1].finish_reason == "abort"
    assert outputs["b"][-1].finish_reason == "length"
    assert rig.scheduler.blocks.counts().referenced == 0

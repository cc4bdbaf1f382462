"""Requests with grammars beside other streams: a real engine, a tiny model, real trials."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steelyard_runtime.core.params import MAX_GRAMMAR_BYTES, Grammar
from steelyard_runtime.core.roles import Phase, Role
from steelyard_runtime.ipc.messages import Output, RemotePrefill
from steelyard_runtime.structured import bounds, grammar
from steelyard_runtime.testing.undisturbed import STREAMS, Streams, prompt, victim

HUNDRED_TOKENS = {"max_tokens": 44, "ignore_eos": True, "temperature": 0.0}
PATTERNS = json.dumps(
    {
        "type": "string",
        "allOf": [{"type": "string", "pattern": f".*a{{{i + 1}}}.*b"} for i in range(30)],
    }
)
REMOTE = RemotePrefill("e", "gone", "127.0.0.1", 1, [[0, 1]], num_tokens=6)


def bomb(name: str, schema: str, **more: Any) -> Any:
    """A request whose grammar costs seconds."""
    return victim(name, {"grammar": Grammar("json_schema", schema)}, **more)


def prime(number: int) -> str:
    return json.dumps({"type": "integer", "multipleOf": number})


def step_until(streams: Streams, condition: Callable[[list[Output]], object]) -> list[Output]:
    """Step until the condition on all outputs so far holds; returns them."""
    outputs: list[Output] = []
    ends_at = time.monotonic() + 60
    while not condition(outputs):
        assert time.monotonic() < ends_at, "it never came to that"
        outputs += streams.engine.step()
        if not streams.engine.ran:
            time.sleep(0.001)
    return outputs


def ended(outputs: list[Output]) -> list[str]:
    return [output.request_id for output in outputs if output.finish_reason is not None]


def trial_processes(streams: Streams) -> list[str]:
    pid = streams.rig.assembly.grammars.trials.pid
    return [] if pid is None else Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("schema", [prime(999_983), PATTERNS], ids=["multiple", "patterns"])
def test_streams_go_on_while_a_grammar_is_compiled(streams: Streams, schema: str) -> None:
    """A stream has all its tokens before a grammar that costs seconds has its answer: a 400."""
    streams.engine.add(bomb("bomb", schema))
    streams.engine.add(victim("good", HUNDRED_TOKENS, token_ids=prompt(0)))
    outputs = step_until(streams, lambda outputs: len(ended(outputs)) == 2)

    assert ended(outputs) == ["good", "bomb"]
    assert (outputs[-1].error_status, outputs[-1].error_param) == (400, "response_format")
    assert "processor time" in outputs[-1].error


def test_bombs_change_no_text(streams: Streams) -> None:
    """Eight streams, one of which has a grammar, get what they get undisturbed."""
    tokens, answers = streams.run(STREAMS, bomb("beside", prime(999_979)))

    assert tokens == streams.expected
    assert answers["beside"].last.error_status == 400


def test_an_abort_ends_the_trial(streams: Streams) -> None:
    """The client's leaving ends the process that tried its grammar, and nothing is in flight."""
    streams.engine.add(bomb("left", prime(999_961)))
    step_until(streams, lambda _: trial_processes(streams))

    streams.engine.abort("left")
    outputs = step_until(streams, lambda _: not trial_processes(streams))

    assert [output.finish_reason for output in outputs if output.request_id == "left"] == ["abort"]
    assert streams.engine.in_flight == 0


def test_a_drain_waits_for_grammars(streams: Streams) -> None:
    """A request whose grammar is being made is in flight, and ends with the drain's deadline."""
    streams.engine.add(bomb("waits", prime(999_959)))
    streams.engine.drain()
    assert streams.engine.phase is Phase.DRAINING

    streams.engine.fail_all("too late", 503)
    last = [each for each in streams.engine.step() if each.request_id == "waits"][-1]

    assert (last.error, last.error_status) == ("too late", 503)
    assert streams.engine.phase is Phase.DRAINED
    streams.engine.set_role(Role.BOTH)


def test_a_sequence_whose_mask_is_late_holds_up_no_other(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sits steps out until the mask is there; then it gets the tokens that it gets alone."""
    fields = {"temperature": 0.0, "max_tokens": 5, "grammar": Grammar("regex", "[a-z ]+")}
    alone = streams.run([], victim("alone", fields))[1]["alone"].token_ids
    opened, next_mask, calls = threading.Event(), grammar.next_mask, 0

    def late_mask(matcher: Any, field: str) -> bytes:
        nonlocal calls
        calls += field == "tools"
        if field == "tools" and calls == 3:
            opened.wait(60)
        return next_mask(matcher, field)

    monkeypatch.setattr(grammar, "next_mask", late_mask)
    slow = {**fields, "grammar": Grammar("regex", "[a-z ]+", field="tools")}
    streams.engine.add(victim("late", slow))
    first = step_until(streams, lambda outputs: len(outputs) == 2)
    streams.engine.add(victim("good", HUNDRED_TOKENS, token_ids=prompt(0)))
    second = step_until(streams, lambda outputs: ended(outputs) == ["good"])
    opened.set()
    third = step_until(streams, lambda outputs: ended(outputs) == ["late"])

    late = [each for each in (*first, *second, *third) if each.request_id == "late"]
    assert [token for output in late for token in output.token_ids] == alone
    assert {output.request_id for output in second} == {"good"}


def test_a_mask_that_costs_too_much_ends_its_sequence_alone(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a 400 that names the field and the limit; the next request is refused at once."""
    limit = bounds.MASK_CPU_SECONDS
    compute = grammar.next_mask

    def dear_mask(matcher: Any, field: str) -> bytes:
        if field == "tools":
            ends_at = time.thread_time() + limit
            while time.thread_time() <= ends_at:
                pass
        return compute(matcher, field)

    monkeypatch.setattr(grammar, "next_mask", dear_mask)
    dear = {"temperature": 0.0, "grammar": Grammar("regex", "[b-y ]+", field="tools")}
    tokens, answers = streams.run(STREAMS, victim("dear", dear))
    last = answers["dear"].last

    assert tokens == streams.expected
    assert (last.error_status, last.error_param) == (400, "tools")
    assert "at most 0.5 s are allowed" in last.error
    streams.engine.add(victim("again", dear))
    (again,) = streams.engine.step()
    assert (again.error, again.error_status) == (last.error, 400)


def test_a_lease_is_given_back_where_the_grammar_is_refused(make_rig: Any) -> None:
    """Refused at once, not to be tried, or aborted: the prefill worker's blocks are free."""
    rig = make_rig()
    too_long = "x" * (MAX_GRAMMAR_BYTES + 1)
    rig.engine.add(bomb("long", too_long, token_ids=[7] * 6, remote_prefill=REMOTE))
    rig.engine.add(bomb("untried", "{}", token_ids=[7] * 6, remote_prefill=REMOTE))
    rig.engine.add(bomb("left", "{}", token_ids=[7] * 6, remote_prefill=REMOTE))
    rig.engine.abort("left")
    outputs: list[Output] = []
    ends_at = time.monotonic() + 60
    while len(outputs) < 3 and time.monotonic() < ends_at:
        outputs += rig.engine.step()

    statuses = {each.request_id: each.error_status for each in outputs if each.error}
    assert statuses == {"long": 400, "untried": 503}
    # Of three requests two were held; all three are released.
    calls = [call[0] for call in rig.transfer.calls]
    assert (calls.count("hold"), calls.count("release")) == (2, 3)

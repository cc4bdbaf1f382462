"""What grammars may cost: the service refuses what costs too much, and serves others meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steelyard_runtime.core.params import Grammar
from steelyard_runtime.errors import RequestError
from steelyard_runtime.structured import bounds
from steelyard_runtime.structured.grammar import GrammarState


def schema(text: str, field: str = "response_format") -> Grammar:
    return Grammar("json_schema", text, field=field)


def children(pid: int) -> list[int]:
    """Return the processes that a process has forked."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(each) for each in listed]


def wait_until(condition: Callable[[], object], what: str) -> None:
    ends_at = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends_at, what
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("name", "named_limit"),
    [
        ("multiple", "1 s of processor time"),
        ("wide", "1 s of processor time"),
        ("patterns", "1 s of processor time"),
        ("const", "of processor time"),
        ("chain", "stack of more than 8 MiB"),
        ("nested", "no valid JSON schema"),
        ("itself", "cannot be followed"),
    ],
)
def test_a_grammar_that_costs_too_much_is_refused(
    rig: Any, hostile: dict[str, str], name: str, named_limit: str
) -> None:
    """It is a 400 of one sentence that names the field and the limit; the next one is served."""
    rig.ask(name, schema(hostile[name]))
    (error,) = rig.wait_for(name)

    assert isinstance(error, RequestError) and error.status == 400
    assert named_limit in error.message and "`response_format`" in error.message
    assert isinstance(rig.state(Grammar("json_object")), GrammarState)


def test_a_long_grammar_is_refused_before_it_is_tried(rig: Any, hostile: dict[str, str]) -> None:
    """A text of 1 MB is a 400 that says how long it may be."""
    with pytest.raises(RequestError, match="at most 524288") as caught:
        rig.ask("long", schema(hostile["long"], field="tools"))

    assert (caught.value.status, caught.value.param) == (400, "tools")


def test_memory_of_a_trial_is_bounded(rig: Any) -> None:
    """A grammar that would take gigabytes is refused, whichever limit it meets first."""
    wanted = {
        "type": "string",
        "pattern": "^(" + "|".join(f"(x{i}.*y)" for i in range(3000)) + ")+$",
    }
    rig.ask("memory", schema(json.dumps({**wanted, "not": {"pattern": "(a|b)*a(a|b){200}"}})))
    (result,) = rig.wait_for("memory")

    assert isinstance(result, RequestError) and result.status == 400


def test_many_properties_are_served(rig: Any) -> None:
    """An ordinary schema of 500 optional properties has masks after each token."""
    wide = {"type": "object", "properties": {f"k{i}": {"type": "string"} for i in range(500)}}
    state = rig.state(schema(json.dumps(wide)), rig.tokenizer.encode('{"k1').ids)

    assert state.allowed(torch.device("cpu")).any()


def test_a_refused_grammar_is_not_tried_again(rig: Any, hostile: dict[str, str]) -> None:
    """The second time it is refused at once, with the same words."""
    grammar = schema(hostile["multiple"], field="tools")
    rig.ask("first", grammar)
    (error,) = rig.wait_for("first")

    with pytest.raises(RequestError) as caught:
        rig.ask("second", grammar)

    assert caught.value.message == error.message


def test_an_ordinary_grammar_passes_slow_ones(make_rig: Callable[[], Any]) -> None:
    """While a slow grammar is being tried, ordinary ones come and are served."""
    rig = make_rig()
    for index in range(4):
        bomb = json.dumps({"type": "integer", "multipleOf": 999_983 + 2 * index})
        rig.ask(f"bomb{index}", schema(bomb))
    rig.ask("good", Grammar("json_object"), client="another")
    (good,) = rig.wait_for("good")

    assert isinstance(good, GrammarState)
    assert "bomb3" not in rig.made


def test_a_client_that_goes_takes_its_trial_along(
    make_rig: Callable[[], Any], hostile: dict[str, str]
) -> None:
    """The process that tried its grammar is gone, and nothing comes of the request."""
    rig = make_rig()
    rig.ask("bomb", schema(hostile["patterns"]))
    wait_until(lambda: rig.service.trials.pid and children(rig.service.trials.pid), "no trial")

    rig.service.cancel("bomb")

    wait_until(lambda: not children(rig.service.trials.pid), "the trial goes on")
    assert isinstance(rig.state(Grammar("json_object")), GrammarState)
    assert "bomb" not in rig.made


def test_requests_of_one_grammar_share_its_trial(make_rig: Callable[[], Any]) -> None:
    """Eight choices of a request are one trial, and a later request is none."""
    rig = make_rig()
    names = [f"choice{index}" for index in range(8)]
    for name in names:
        rig.ask(name, Grammar("regex", "[a-z]{3}"))
    states = rig.wait_for(*names)
    rig.state(Grammar("regex", "[a-z]{3}"))
    _, counters, _ = rig.service.stats()

    assert all(isinstance(each, GrammarState) for each in states)
    assert counters['steelyard:grammar_compiles{result="passed"}'] == 1
    assert counters["steelyard:grammar_cache_hits"] >= 1


def test_the_queue_of_new_grammars_is_bounded(
    make_rig: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends more new grammars than may wait is told to come again; others still may send."""
    monkeypatch.setattr(bounds, "MAX_QUEUED_TRIALS_OF_ONE", 2)
    rig = make_rig()

    def ask_for_many(client: str) -> None:
        for index in range(64):
            bomb = json.dumps({"type": "integer", "multipleOf": 999_983 + 2 * index})
            rig.ask(f"{client}{index}", schema(bomb, field=client), client=client)

    with pytest.raises(RequestError) as caught:
        ask_for_many("hostile")
    rig.ask("good", Grammar("json_object"), client="good")

    assert (caught.value.status, caught.value.retry_after_seconds) == (429, 1)
    assert isinstance(rig.wait_for("good")[0], GrammarState)


def test_memory_of_all_grammars_is_bounded(
    make_rig: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grammar that has no room beside those of running sequences is a 429; later it has."""
    monkeypatch.setattr(bounds, "MAX_LIVE_BYTES", bounds.MIN_GRAMMAR_BYTES)
    rig = make_rig()
    grammar = Grammar("regex", "[a-f]{3}")
    first = rig.state(grammar)

    with pytest.raises(RequestError, match="hold 0 MiB") as caught:
        rig.state(grammar)
    del first

    assert caught.value.status == 429
    assert isinstance(rig.state(grammar), GrammarState)


def test_a_trial_process_that_was_killed_is_started_again(make_rig: Callable[[], Any]) -> None:
    """Requests that waited for it are told to come again; the next one is served."""
    rig = make_rig()
    rig.state(Grammar("json_object"))
    pid = rig.service.trials.pid
    rig.ask("bomb", schema(json.dumps({"type": "integer", "multipleOf": 999_979})))
    wait_until(lambda: children(pid), "no trial")

    os.kill(pid, signal.SIGKILL)
    (error,) = rig.wait_for("bomb")

    assert isinstance(error, RequestError) and error.status == 503
    assert isinstance(rig.state(Grammar("regex", "x+")), GrammarState)
    assert rig.service.trials.pid != pid


def test_a_trial_process_that_does_not_answer_is_replaced(
    make_rig: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests do not wait for it for ever, and later ones are served by another one."""
    rig = make_rig()
    rig.state(Grammar("json_object"))
    pid = rig.service.trials.pid
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(bounds, "ANSWER_SECONDS", 0.2)
        rig.ask("stuck", Grammar("regex", "x+"))
        (error,) = rig.wait_for("stuck")

    assert isinstance(error, RequestError) and error.status == 503
    assert isinstance(rig.state(Grammar("regex", "y+")), GrammarState)


PARENT = """
import sys, time
from pathlib import Path
from steelyard_runtime.core.params import Grammar
from steelyard_runtime.structured.matchers import GrammarVocabulary
from steelyard_runtime.structured.service import GrammarService

text = Path(sys.argv[1]).read_text()
service = GrammarService(lambda: GrammarVocabulary(text, 260, (256,)))
service.request("bomb", Grammar("json_schema", sys.argv[2]), client="")
while service.trials.pid is None:
    time.sleep(0.005)
print(service.trials.pid, flush=True)
time.sleep(600)
"""


def test_the_trial_process_ends_with_its_parent(
    tokenizer: Any, hostile: dict[str, str], tmp_path: Path
) -> None:
    """A parent that is killed leaves neither it nor a trial behind."""
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_str())
    command = [sys.executable, "-c", PARENT, str(path), hostile["patterns"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: is_gone(pid) or children(pid), "no trial")
        trials = children(pid)
        parent.kill()

    assert trials
    wait_until(lambda: all(map(is_gone, [pid, *trials])), "a process is left")


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, reaped or not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rsplit(")", 1)[1].split()[0] == "Z"


def test_a_vocabulary_that_cannot_be_read_refuses_grammars_alone(
    make_rig: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose tokenizer llguidance does not know is served, and its grammars are a 400."""
    rig = make_rig()
    monkeypatch.setattr(rig.tokenizer.__class__, "to_str", lambda self: "{}")
    rig.service.prepare()

    with pytest.raises(RequestError, match="this model's tokenizer") as caught:
        rig.ask("any", Grammar("json_object"))

    assert caught.value.status == 400

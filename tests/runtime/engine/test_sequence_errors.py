"""Whatever one sequence raises, eight other streams get the tokens that they get undisturbed.

The engine is real (scheduler, model, sampler, grammars), the model tiny; it is never made anew, so
each case also shows that the one before left it whole.
"""

from typing import Any

import pytest

from steelyard_runtime.core import results
from steelyard_runtime.core.admission import Admission
from steelyard_runtime.core.blocks import BlockManager
from steelyard_runtime.core.prefix_cache import PrefixCache
from steelyard_runtime.core.results import StepResults
from steelyard_runtime.core.running import RunningBatch
from steelyard_runtime.core.scheduler import Scheduler
from steelyard_runtime.engine import live_requests, output, sampling_step
from steelyard_runtime.engine.model_runner import ModelRunner, PendingTokens
from steelyard_runtime.ipc.messages import RemotePrefill
from steelyard_runtime.sampling import filters, sampler
from steelyard_runtime.structured.grammar import GrammarState
from steelyard_runtime.structured.service import GrammarService
from steelyard_runtime.testing.undisturbed import (
    PROMPT_TOKENS,
    STREAMS,
    Panic,
    Streams,
    raise_once,
    victim,
)
from steelyard_runtime.transfer.worker import TransferWorker

# (where, what, the call that raises); each belongs to one sequence, so it fails and no other.
STEPS_OF_A_SEQUENCE: list[tuple[Any, str, int]] = [
    (GrammarService, "request", 1),
    (live_requests, "Sequence", 4),
    (Scheduler, "add", 3),
    (Admission, "_allocate", 3),
    (Admission, "_waits_for_sibling", 2),
    (PrefixCache, "find", 5),
    (BlockManager, "allocate", 2),
    (RunningBatch, "add", 4),
    (RunningBatch, "_grow", 9),
    (StepResults, "take", 12),
    (StepResults, "_take_tokens", 12),
    (results, "append_tokens", 20),
    (PrefixCache, "publish", 3),
    (PrefixCache, "_hashes", 2),
    (Scheduler, "_finish", 2),
    (sampling_step, "_row", 11),
    (sampling_step, "_collect_prompt_logprobs", 1),
    (sampling_step, "token_logprobs", 1),
    (GrammarState, "allowed", 2),
    (GrammarState, "advance", 3),
    (GrammarState, "is_ready", 2),
    (sampler, "_is_plain", 13),
    (sampler, "needs_processing", 15),
    (sampler, "_sampled", 9),
    (sampler, "_processed", 4),
    (sampler, "changes", 4),
    (sampler, "token_uniforms", 5),
    (filters, "candidates", 6),
    (filters, "_nucleus", 2),
    (filters, "_select", 3),
    (filters, "draw", 7),
    (live_requests, "output", 14),
    (output, "token_logprobs", 3),
]


@pytest.mark.parametrize(
    ("owner", "name", "at_call"),
    STEPS_OF_A_SEQUENCE,
    ids=lambda given: getattr(given, "__name__", given),
)
def test_what_a_sequence_raises_ends_it_alone(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at_call: int
) -> None:
    """One of nine fails with 500, whichever raised; eight have their tokens; no block is held."""
    calls = raise_once(monkeypatch.setattr, owner, name, at_call, Panic("of a library"))
    before = sum(streams.engine.statistics.sequence_errors.values())
    tokens, answers = streams.run([*STREAMS, STREAMS[3]])

    assert calls() >= at_call
    failed = [answer.last for answer in answers.values() if answer.last.finish_reason == "error"]
    assert [(one.error_status, "Panic: of a library" in one.error) for one in failed] == [
        (500, True)
    ]
    assert [got for got in tokens[:8] if got is not None] == [
        want for got, want in zip(tokens, streams.expected, strict=False) if got is not None
    ]
    assert sum(streams.engine.statistics.sequence_errors.values()) == before + 1


@pytest.mark.parametrize(
    ("owner", "name"),
    [(ModelRunner, "run"), (sampler, "likeliest")],
    ids=["forward", "argmax"],
)
def test_a_failed_batch_is_done_one_by_one(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    """What raises for the whole batch and for nobody alone changes no stream."""
    raise_once(monkeypatch.setattr, owner, name, 3, Panic("once"))

    assert streams.run(STREAMS)[0] == streams.expected


def test_a_sequence_that_breaks_every_forward_pass_ends_alone(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pass that holds it raises; the others are computed without it."""
    run = ModelRunner.run

    def breaks(runner: ModelRunner, plan: Any) -> Any:
        if any(item.sequence.request_id == "breaks" for item in plan.scheduled):
            raise RuntimeError("no such kernel")
        return run(runner, plan)

    monkeypatch.setattr(ModelRunner, "run", breaks)
    tokens, answers = streams.run(STREAMS, victim("breaks", {"temperature": 0.0}))

    assert tokens == streams.expected
    assert "no such kernel" in answers["breaks"].last.error


@pytest.mark.parametrize(
    ("owner", "name"),
    [(ModelRunner, "launch"), (PendingTokens, "of"), (PendingTokens, "tokens")],
    ids=["launch", "argmax", "tokens"],
)
@pytest.mark.parametrize("at_call", [1, 3])
def test_a_failed_launch_changes_no_text(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at_call: int
) -> None:
    """Steps that are launched ahead run again in step; lost tokens end their step's sequences."""
    monkeypatch.setattr(streams.rig.assembly.runner, "runs_ahead", True)
    calls = raise_once(monkeypatch.setattr, owner, name, at_call, Panic("of the device"))
    tokens, answers = streams.run([{"temperature": 0.0}] * 8)

    assert calls() >= at_call
    if name == "tokens":
        assert {answer.last.error_status for answer in answers.values()} == {500}
        assert streams.run([{"temperature": 0.0}] * 8)[0] == streams.expected_plain
    else:
        assert tokens == streams.expected_plain


def test_a_device_that_is_lost_ends_the_engine(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that stays is not one of a sequence: the process ends and its supervisor acts."""
    monkeypatch.setattr(ModelRunner, "is_usable", lambda runner: False)
    monkeypatch.setattr(ModelRunner, "run", _raise)
    streams.engine.add(victim("lost", {"temperature": 0.0}))
    with pytest.raises(RuntimeError, match="an illegal memory access"):
        streams.engine.step()
    monkeypatch.undo()
    streams.engine._scheduler._committed = streams.engine._scheduler._planned
    streams.engine.abort("lost")
    streams.rig.wait_until_settled()


def _raise(*arguments: Any) -> Any:
    raise RuntimeError("an illegal memory access was encountered")


@pytest.mark.parametrize("call", ["export", "hold", "pull"])
def test_a_transfer_that_raises_ends_its_sequence_alone(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Also while the sequence's last step hands its blocks over; then no lease is left."""
    remote = RemotePrefill("e", "gone", "127.0.0.1", 1, [[0, 1]], num_tokens=PROMPT_TOKENS)
    more: dict[str, Any] = {"export_kv": True} if call == "export" else {"remote_prefill": remote}
    monkeypatch.setattr(TransferWorker, call, _panic)
    tokens, answers = streams.run(STREAMS, victim("moved", {"temperature": 0.0}, **more))

    assert tokens == streams.expected
    assert "Panic: of a transport" in answers["moved"].last.error


def test_a_transfer_that_raises_at_an_abort_is_only_logged(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sequence is gone either way; the remote lease ends by its time."""
    remote = RemotePrefill("e", "gone", "127.0.0.1", 1, [[0, 1]], num_tokens=PROMPT_TOKENS)
    monkeypatch.setattr(TransferWorker, "release", _panic)
    streams.engine.add(victim("moved", {"temperature": 0.0}, remote_prefill=remote))
    streams.engine.abort("moved")

    assert streams.run(STREAMS)[0] == streams.expected


def _panic(*arguments: Any) -> Any:
    raise Panic("of a transport")

"""When a sequence ends, what it leaves behind, and what a step's results do to it."""

import pytest

from steelyard_runtime.core.finish import append_tokens
from steelyard_runtime.core.params import SamplingParams
from steelyard_runtime.core.sequence import Sequence

EOS = 0


@pytest.mark.parametrize(
    ("params", "sampled", "kept", "reason"),
    [
        ({"max_tokens": 5}, [7, 8], [7, 8], None),
        ({"max_tokens": 2}, [7, 8], [7, 8], "length"),
        ({"max_tokens": 2}, [7, 8, 9], [7, 8], "length"),
        ({"max_tokens": 5}, [7, EOS, 9], [7, EOS], "stop"),
        ({"max_tokens": 2}, [7, EOS], [7, EOS], "stop"),
        ({"max_tokens": 5, "ignore_eos": True}, [7, EOS, 9], [7, EOS, 9], None),
        ({"max_tokens": 5, "min_tokens": 3}, [7, EOS, 9], [7, EOS, 9], None),
        ({"max_tokens": 5, "min_tokens": 2}, [7, EOS, 9], [7, EOS], "stop"),
        ({"max_tokens": 5, "stop_token_ids": (8,)}, [7, 8, 9], [7, 8], "stop"),
        ({"max_tokens": 5, "stop_token_ids": (EOS,), "ignore_eos": True}, [EOS], [EOS], "stop"),
        ({"max_tokens": 0}, [7], [], "length"),
    ],
)
def test_accepted_tokens_are_taken_up_to_the_end_of_the_sequence(params, sampled, kept, reason):
    """End-of-sequence and stop ids end with `stop`, the limit with `length`; the rest is cut."""
    sequence = Sequence("a", [1, 2], 2, SamplingParams(**params))
    assert append_tokens(sequence, sampled, frozenset([EOS])) == len(kept)
    assert (sequence.output_token_ids, sequence.finish_reason) == (kept, reason)


@pytest.mark.parametrize(("resumed", "reason"), [([5, EOS], "stop"), ([5, 6, 7], "length")])
def test_a_resumed_sequence_that_is_complete_ends_without_a_token(make_rig, resumed, reason):
    """A worker that died between the last token and the end leaves nothing to generate."""
    rig = make_rig()
    sequence = rig.add("a", [1, 2], resume=resumed, max_tokens=3)
    rig.step()
    assert (sequence.output_token_ids, sequence.finish_reason) == (resumed, reason)
    assert rig.scheduler.in_flight == 0


def test_a_finished_export_leaves_exactly_the_prompts_blocks_under_a_lease(make_rig):
    """The lease is taken before the other references go, and ends to free blocks."""
    rig = make_rig(num_blocks=8)
    sequence = rig.add("a", [1] * 9, max_tokens=8, export_kv=True)
    rig.step_until_finished("a")
    assert sequence.block_ids == []
    counts = rig.blocks.counts()
    assert (counts.leased, counts.referenced) == (3, 0)
    assert rig.scheduler.in_flight == 1
    assert rig.scheduler.end_lease("a")
    assert not rig.scheduler.end_lease("a")
    assert rig.scheduler.in_flight == 0
    assert rig.blocks.counts().leased == 0


def test_an_aborted_export_leaves_no_lease(make_rig):
    """Nobody will come for the blocks of a request whose client is gone."""
    rig = make_rig()
    rig.add("a", [1] * 9, export_kv=True)
    rig.step()
    rig.abort("a")
    assert rig.blocks.counts().leased == 0
    assert rig.scheduler.in_flight == 0


def test_abort_frees_the_blocks_at_once_between_steps(make_rig):
    """A waiting and a running sequence vanish with all they hold."""
    rig = make_rig(max_num_seqs=1)
    for name in "ab":
        rig.add(name, [1] * 9)
    rig.step()
    for name in "ab":
        assert rig.abort(name).sequence.finish_reason == "abort"
    assert rig.abort("a") is None
    counts = rig.blocks.counts()
    assert counts.free + counts.cached == counts.total


def test_blocks_of_a_sequence_aborted_during_its_step_are_held_until_commit(make_rig):
    """The forward pass that still writes them does not write into free blocks."""
    rig = make_rig()
    sequence = rig.add("a", [1] * 9)

    def abort() -> None:
        rig.abort("a")
        assert rig.blocks.counts().referenced == 3

    rig.step(during=abort)
    assert rig.blocks.counts().referenced == 0
    assert sequence.output_token_ids == []
    assert rig.finished == {}


def test_a_step_that_was_not_committed_blocks_the_next(make_rig):
    """A second plan would be made from stale positions."""
    rig = make_rig()
    rig.add("a", [1, 2])
    rig.scheduler.schedule()
    with pytest.raises(RuntimeError, match="before commit"):
        rig.scheduler.schedule()


def test_a_step_may_bring_several_tokens(make_rig):
    """Accepted drafts are appended together; the KV that is missing is computed next."""
    rig = make_rig()
    sequence = rig.add("a", [1, 2, 3], max_tokens=9)
    plan = rig.scheduler.schedule()
    rig.scheduler.commit(plan, {"a": [4, 5, 6]})
    assert (sequence.num_computed, sequence.num_tokens) == (3, 6)
    [item] = rig.scheduler.schedule().scheduled
    assert (item.start, item.count, item.logit_positions) == (3, 3, (5,))


def test_counters_count_each_token_once(make_rig):
    """Prompt, generated and cached tokens add up over requests, preempted ones included."""
    rig = make_rig(num_blocks=7, budget=32)
    for name, token in (("a", 1), ("b", 2)):
        rig.add(name, [token] * 9, max_tokens=8)
    rig.finish_all()
    rig.add("c", [1] * 9, max_tokens=1)
    rig.finish_all()
    counters = rig.scheduler.counters
    assert counters.preemptions > 0
    assert (counters.prompt_tokens, counters.generation_tokens) == (27, 17)
    assert counters.prefix_queries_tokens == 27
    assert counters.prefix_hits_tokens in (0, 4, 8)  # how much of `a` was evicted meanwhile
